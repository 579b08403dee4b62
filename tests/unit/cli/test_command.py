"""The border of the command line, started as people start it: whatever happens, one clear line, and no traceback."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FIREKILN = [sys.executable, "-m", "firekiln"]


def firekiln(root, *args, **options):
    return subprocess.run([*FIREKILN, "--root", root, *args], capture_output=True, timeout=60, check=False, **options)


def test_the_version_is_told_without_importing_a_command_line():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "firekiln", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("firekiln ")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "firekiln.cli.main" in loaded
    assert not loaded & {"click", "dataclasses", "typing", "firekiln.errors", "firekiln.api"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["biuld"], "No such command 'biuld' (did you mean build?)"),
        (["--colour"], "No such option '--colour'"),
        (["build", "--colour", "."], "No such option '--colour'"),
        (["build", ".", "."], "unexpected extra argument"),
        (["stop"], "Missing argument"),
    ],
)
def test_wrong_use_is_one_line_and_a_hint_and_ends_with_125(tmp_path, args, said):
    done = firekiln(tmp_path, *args)
    first, hint = done.stderr.decode().splitlines()
    assert done.returncode == 125
    assert first.startswith("firekiln: ")
    assert said in first
    assert hint.endswith("--help")


def test_without_a_verb_the_help_is_shown(tmp_path):
    done = firekiln(tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(b"Usage: ")


def test_a_verbs_summary_is_never_cut(tmp_path):
    assert b"..." not in firekiln(tmp_path, "--help").stdout.partition(b"Commands:")[2]


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(tmp_path, redirection):
    script = f'"$@" --root {tmp_path} images {redirection}'
    done = subprocess.run(["sh", "-c", script, "sh", *FIREKILN], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_file_that_takes_nothing_more_is_an_error_of_one_line(tmp_path):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*FIREKILN, "--root", tmp_path, "images"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 125
    assert done.stderr.splitlines()[0] == b"firekiln: no space left on device"


def test_a_reader_that_goes_away_ends_a_command_quietly(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*FIREKILN, "--root", tmp_path, "images"], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_quietly_with_128_and_its_number(tmp_path, number):
    dockerfile = tmp_path / "Dockerfile"
    os.mkfifo(dockerfile)
    process = subprocess.Popen([*FIREKILN, "--root", tmp_path / "store", "build", tmp_path], stderr=subprocess.PIPE)
    writer = opened_by_its_reader(dockerfile)
    wait_until_it_reads(process.pid)  # else the signal may come between Python's look for one and its read(2)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    os.close(writer)
    assert (process.returncode, said) == (128 + number, b"")


def opened_by_its_reader(fifo):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.01)
    raise TimeoutError(fifo)


def wait_until_it_reads(pid):
    deadline = time.monotonic() + 20
    while not Path(f"/proc/{pid}/wchan").read_text().endswith("pipe_read"):
        assert time.monotonic() < deadline, "it never began to read"
        time.sleep(0.01)


def test_a_store_of_somebody_else_is_an_error_of_one_line(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    root = tmp_path / "store"
    assert firekiln(root, "images").returncode == 0
    for args in (["images"], ["ps"], ["inspect", "x"], ["build", "-"], ["run", "x"]):
        # Imported before the identity changes: the interpreter's own folders may be closed to it afterwards.
        script = (
            "import os, sys; from firekiln.cli.command import run; import firekiln.api.machines, firekiln.cli.run, \\\n"
        )
        script += "firekiln.cli.images, firekiln.cli.machines, firekiln.cli.build, firekiln.cli.excerpt, \\\n"
        script += "firekiln.dockerfile.text, encodings.idna, traceback; os.setuid(65534); sys.exit(run())"
        done = subprocess.run(
            [sys.executable, "-c", script, "--root", root, *args],
            input=b"FROM scratch\nENV A=1\n",
            capture_output=True,
            timeout=60,
            check=False,
        )
        said = done.stderr.decode()
        assert done.returncode in (1, 125), said
        assert "permission denied" in said, said
        assert "Traceback" not in said
        assert "hint: " in said
