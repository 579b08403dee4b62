"""What `exec` without the rest of the command line understands, and what it leaves to that."""

import socket
import subprocess
import sys
import threading

import pytest

from firekiln.cli.quick import _request, run_exec
from firekiln.machine.guest.protocol import Frame, FrameType, control
from firekiln.machine.supervision.unixsocket import socket_address


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("box true", {"machine": "box", "argv": ["true"]}),
        ("box sh -c -i", {"machine": "box", "argv": ["sh", "-c", "-i"]}),
        ("-i -e A=b -e C= -u web:www -w /srv box cat", {"stdin": True, "env": ["A=b", "C="], "user": "web:www"}),
        ("--interactive --user 0 --workdir / box cat", {"stdin": True, "user": "0", "cwd": "/"}),
        ("--env A=b=c box -x", {"env": ["A=b=c"], "argv": ["-x"]}),
    ],
)
def test_the_plain_form_is_understood(words, expected):
    request = _request(iter(words.split()))
    assert request is not None
    assert {name: request[name] for name in expected} == expected


@pytest.mark.parametrize(
    "words", ["", "box", "-d box true", "-it box true", "-t box true", "-e HOME box true", "--env=A=b box true", "-e"]
)
def test_anything_else_is_left_to_the_whole_command_line(words):
    assert _request(iter(words.split())) is None


def test_a_machine_that_is_not_there_is_left_to_the_whole_command_line(tmp_path):
    for name in ("box", "ab" * 32, "../" * 21 + "x"):
        assert run_exec(["--root", str(tmp_path), "exec", name, "true"]) is None
    assert list(tmp_path.iterdir()) == []


def test_neither_click_nor_pathlib_nor_inspect_is_loaded_before_the_machine_is_asked(tmp_path):
    program = (
        "import sys; from firekiln.cli.quick import run_exec; run_exec(sys.argv[1:]);"
        "print(*sorted({'click', 'dis', 'pathlib', 'shutil', 'subprocess'} & {*sys.modules}))"
    )
    argv = [sys.executable, "-c", program, "--root", str(tmp_path), "exec", "box", "true"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "\n"


REFUSAL = control(FrameType.FAILED, message="the machine is still booting", hint=None, status=125).encode()
ABSENT = control(FrameType.FAILED, message="no such program", hint=None, status=127).encode()
RUNS = control(FrameType.STARTED).encode()
NONSENSE = b"\xff" * 8


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (REFUSAL, None),
        (ABSENT, 127),
        (RUNS + Frame(FrameType.STDOUT, b"out").encode() + control(FrameType.EXITED, code=3).encode(), 3),
        (RUNS + NONSENSE, 125),  # what has run must not run again
        (RUNS, 125),
        (NONSENSE, 125),
    ],
)
def test_only_what_has_not_begun_is_left_to_the_whole_command_line(tmp_path, capfd, said, status):
    name = "ab" * 32
    folder = tmp_path / "machines" / name
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        with socket_address(folder, "control") as address:
            server.bind(address)
        server.listen(1)

        def answer():
            client, _ = server.accept()
            with client:
                client.recv(1 << 16)
                client.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        assert run_exec(["--root", str(tmp_path), "exec", name, "true"]) == status
        thread.join()
    out, error = capfd.readouterr()
    assert out == ("out" if status == 3 else "")
    assert bool(error) == (status in (125, 127))
