"""`firekiln` started as people start it, on real builds: what it says of failures, and what it leaves behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from firekiln.store import Store

BUSYBOX = shutil.which("busybox")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts and namespaces need root"),
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static"),
]

BASE = 'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    shutil.copy(BUSYBOX, folder / "busybox")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def build(context, root):
    """Build a Dockerfile that goes on from BASE: a function that returns the completed process."""

    def command(text, *options):
        argv = [sys.executable, "-m", "firekiln", "--root", root, "build", *options, "-f", "-", context]
        return subprocess.run(
            argv, input=(BASE + text).encode(), capture_output=True, timeout=60, check=False, cwd=context.parent
        )

    yield command
    assert left_behind(root) == []


def left_behind(root):
    """What a build must not leave: files that were being written, mounts, processes."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(root) in line]
    return [*mounts, *(root / "tmp").iterdir(), *processes(root)]


def processes(root):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            argv = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(root) in argv and int(folder.name) != os.getpid():
            found.append(argv)
    return found


@pytest.mark.parametrize("options", [["--progress=plain"], ["-q"]])
def test_a_failed_steps_last_words_are_shown_once_with_its_status(build, options):
    done = build("RUN echo these words; exit 42\n", *options)
    said = done.stderr.decode()
    assert done.returncode == 1
    assert said.count("these words\n") == 1
    assert "exit code: 42" in said.splitlines()[-1]
    assert "Dockerfile:4" in said.splitlines()[-1]


def test_a_step_that_is_killed_fails_with_128_and_the_signals_number(build):
    done = build("RUN sh -c 'kill -9 $$'; exit $?\n")
    assert done.returncode == 1
    assert b"exit code: 137" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("tag", ["Upper", "a b", "x:y:z", "", f"x@sha256:{'0' * 64}"])
def test_a_name_that_is_none_is_refused_before_anything_is_built(build, root, tag):
    done = build("RUN echo never run\n", "-t", tag)
    assert done.returncode == 1
    assert f'invalid tag "{tag}"' in done.stderr.decode()
    assert b"#1" not in done.stderr


def test_the_files_that_tell_the_digest_are_this_builds_or_absent(build, tmp_path):
    iid, metadata = tmp_path / "iid", tmp_path / "metadata"
    options = ["-q", "-t", "one", "--iidfile", iid, "--metadata-file", metadata]
    done = build("ENV A=1\n", *options)
    digest = done.stdout.decode().strip()
    assert iid.read_text() == digest
    assert json.loads(metadata.read_text())["containerimage.digest"] == digest
    assert build("RUN false\n", *options).returncode == 1
    assert not iid.exists()
    assert not metadata.exists()
    done = build("RUN echo never run\n", "--iidfile", tmp_path / "none/iid")
    assert done.returncode == 125
    assert b"#1" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_step_ends_it_and_leaves_nothing(context, root, number):
    (context / "Slow").write_text(f"{BASE}RUN echo begun; sleep {1000 + number}\n")
    argv = [sys.executable, "-m", "firekiln", "--root", root, "build", "--progress=plain", "-f", "Slow", context]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=context)
    for line in process.stderr:
        if line.endswith(" begun\n"):
            break
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(20) == 128 + number
    assert "Traceback" not in rest
    assert left_behind(root) == []
    assert not any(b"sleep\0" + str(1000 + number).encode() in argv for argv in command_lines())


def test_what_a_killed_build_leaves_is_swept_by_a_later_one(context, root, build):
    (context / "Slow").write_text(f"{BASE}RUN echo begun; sleep 1009\n")
    argv = [sys.executable, "-m", "firekiln", "--root", root, "build", "--progress=plain", "-f", "Slow", context]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=context)
    for line in process.stderr:
        if line.endswith(" begun\n"):
            break
    process.kill()
    process.wait()
    process.stderr.close()
    deadline = time.monotonic() + 10
    while any(b"sleep\x001009" in argv for argv in command_lines()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for folder in (root / "tmp").iterdir():
        os.utime(folder, (0, 0))  # as if it were old: a young one may be about to be locked
    assert build("RUN echo again\n").returncode == 0


def command_lines():
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield file.read_bytes()
        except OSError:
            continue


@pytest.fixture
def theirs():
    """A folder of nobody's, where nobody can get at it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chown(folder, 65534, 65534)
        yield Path(folder)


def test_a_step_needs_root_or_subordinate_ids_and_says_so(theirs):
    script = "import os, sys; import firekiln.api.builds, firekiln.sandbox, firekiln.cli.build, firekiln.cli.excerpt; "
    script += "from firekiln.cli.command import run; os.setgroups([]); os.setgid(65534); os.setuid(65534); "
    script += "sys.exit(run())"
    done = subprocess.run(
        [sys.executable, "-c", script, "--root", theirs, "build", "-"],
        input=b"FROM scratch\nRUN true\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert (
        b"building without root needs subordinate ids, and nobody has none in /etc/subuid and /etc/subgid"
        in done.stderr
    )
    assert b"hint: as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535" in done.stderr


def test_a_store_that_can_only_be_read_is_listed(root, build, tmp_path):
    assert build("ENV A=1\n", "-t", "kept").returncode == 0
    store = tmp_path / "store"
    store.mkdir()
    subprocess.run(["mount", "--bind", root, store], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", store], check=True)
        for args in (["images"], ["ps", "-a"], ["inspect", "kept"], ["history", "kept"]):
            done = subprocess.run(
                [sys.executable, "-m", "firekiln", "--root", store, *args], capture_output=True, timeout=60, check=False
            )
            assert (done.returncode, done.stderr) == (0, b""), args
        for args in (["tag", "kept", "other"], ["rmi", "kept"], ["build", "-"]):
            done = subprocess.run(
                [sys.executable, "-m", "firekiln", "--root", store, *args],
                input=b"FROM kept\nENV B=1\n",
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 1, args
            assert b"read-only file system" in done.stderr, args
            assert b"--root DIR" in done.stderr, args
    finally:
        subprocess.run(["umount", store], check=True)
    with Store.open(root) as opened:
        assert opened.images.find("kept") is not None


def test_a_base_is_not_begun_where_it_cannot_fit(tmp_path):
    store = tmp_path / "small"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", store], check=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "firekiln", "--root", store, "base", "create", "debian:bookworm-slim"],
            capture_output=True,
            timeout=30,
            check=False,
        )
        left = [*(store / "tmp").iterdir()]
    finally:
        subprocess.run(["umount", store], check=True)
    if b"is not on this host" in done.stderr or b"keyring" in done.stderr:
        pytest.skip("needs mmdebstrap and Debian's keyring")
    assert done.returncode == 1
    assert b"MiB free" in done.stderr
    assert left == []
