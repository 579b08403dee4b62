"""QEMU's monitor, by a QEMU without a machine."""

import contextlib
import shutil
import socket
import subprocess

import pytest

from firekiln.errors import MachineError
from firekiln.machine.vmm.monitor import Monitor

QEMU = "qemu-system-x86_64"


@pytest.fixture
def qemu():
    if not shutil.which(QEMU):
        pytest.skip(f"needs {QEMU}")
    ours, theirs = socket.socketpair()
    words = [QEMU, "-M", "none", "-display", "none", "-nodefaults", "-S"]
    words += ["-chardev", f"socket,id=m,fd={theirs.fileno()}", "-mon", "chardev=m,mode=control"]
    with ours:
        process = subprocess.Popen(words, pass_fds=[theirs.fileno()])
        theirs.close()
        yield Monitor(ours, timeout=60), process
        process.kill()
        process.wait()


def test_it_answers_refuses_and_breaks_off(qemu):
    monitor, process = qemu
    assert monitor.execute("query-status")["running"] is False
    with pytest.raises(MachineError, match=r"QEMU refused nosuch: .*nosuch"):
        monitor.execute("nosuch")
    assert monitor.execute("query-name") == {}
    process.kill()
    with pytest.raises(MachineError, match="QEMU broke off at query-status"):
        monitor.execute("query-status")


def test_a_state_that_is_none_cannot_be_loaded(qemu, tmp_path):
    monitor, _ = qemu
    (tmp_path / "state").write_bytes(b"nonsense")
    with (tmp_path / "state").open("rb") as file, pytest.raises(MachineError, match="QEMU refused migrate-incoming"):
        monitor.load(file.fileno())


@pytest.mark.parametrize("said", [b"{]\n", b"\xff\n", b"[" * 3000 + b"\n", b"x" * (1 << 21)])
def test_nonsense_is_an_error(said):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        theirs.send(b'{"QMP": {}}\n')
        with contextlib.suppress(BlockingIOError):
            theirs.send(said)
        monitor = Monitor(ours, timeout=0.5)
        with pytest.raises(MachineError, match=r"QEMU (broke off|did not answer)"):
            monitor.execute("query-status")


def test_one_that_says_nothing_is_not_waited_for():
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(MachineError, match=r"QEMU did not answer stop within 0\.1 s"):
        Monitor(ours, timeout=0.1).execute("stop")
