import pytest

from firekiln.errors import ConflictError
from firekiln.machine.guest.reports import Exited, Failed
from firekiln.machine.supervision.ending import Tail, failure, judge


def tail(text=""):
    made = Tail()
    made.add(text.encode())
    return made


def failed(result=None, *, returncode=0, stopping=False, number=0, breach="", complaints="", console=""):
    return failure(
        result,
        returncode=returncode,
        stopping=stopping,
        number=number,
        breach=breach,
        complaints=tail(complaints),
        console=tail(console),
    )


@pytest.mark.parametrize(
    ("result", "returncode", "stopping", "status"),
    [
        (Exited(code=0), 0, False, 0),
        (Exited(code=7), 0, False, 7),
        (Exited(code=None, signal=9), 0, False, 137),
        (Exited(code=3), -9, True, 3),
        (None, -9, False, 137),
        (None, -9, True, 137),
        (None, 0, False, 255),
        (None, 1, False, 125),
    ],
)
def test_the_exit_status_is_the_commands_where_it_has_one(result, returncode, stopping, status):
    assert judge(result, returncode=returncode, stopping=stopping, breach="").status == status


def test_only_an_end_that_nobody_asked_for_is_an_error():
    assert judge(None, returncode=-9, stopping=True, breach="").error == ""
    assert "signal 9" in judge(None, returncode=-9, stopping=False, breach="").error
    assert "panicked" in judge(None, returncode=0, stopping=False, breach="").error


def test_a_command_that_is_not_there_ends_with_dockers_status():
    error = failed(Failed(stage="exec", message="no such file", errno=2, status=127))
    assert (error.exit_status, str(error)) == (127, "no such file")


def test_a_port_that_was_taken_meanwhile_is_reported_as_one_that_was_taken_before():
    said = "qemu-system-x86_64: -netdev user,id=net0: Could not set up host forwarding rule 'tcp:127.0.0.1:80-:80'"
    error = failed(returncode=1, complaints=said)
    assert isinstance(error, ConflictError)
    assert "127.0.0.1:80 failed" in str(error)


def test_a_guest_that_does_not_boot_shows_the_end_of_its_console():
    error = failed(returncode=0, console="[    0.1] loading\r\n\x1b[31mKernel panic - not syncing\n")
    assert error.exit_status == 125
    assert "Kernel panic - not syncing" in error.hint
    assert "\x1b" not in error.hint


def test_a_tail_holds_the_last_few_kilobytes_only():
    made = Tail()
    for number in range(5000):
        made.add(b"%d\n" % number)
    assert made.lines() == ["4995", "4996", "4997", "4998", "4999"]
    assert len(made._data) <= 8192


@pytest.mark.parametrize(("number", "status"), [(0, 137), (2, 130), (15, 143)])
def test_a_machine_that_is_stopped_while_it_boots_ends_as_if_by_the_signal_that_stopped_it(number, status):
    error = failed(returncode=-9, stopping=True, number=number)
    assert (error.exit_status, error.message) == (status, "the machine was stopped before its process started")
