"""`firekiln run --vmm firecracker` as root. Jailer and Firecracker are stand-ins, all else is the thing itself."""

import json
import os
import re
import select
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import isolation
from firecrackers import programs
from firekiln.store import Store
from machines import argv, put_image
from trees import file, folder

pytestmark = [
    pytest.mark.root,
    isolation.needs_root,
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm, if not a guest on it"),
]


@pytest.fixture
def firekiln(tmp_path):
    (tmp_path / "bin").mkdir()
    environment = {**os.environ, **programs(tmp_path / "bin")}
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"\x7fELF" + bytes(100))
    with Store.open(tmp_path / "store") as store:
        put_image(store, "small", folder({b"exit": file(b"", mode=0o755)}), entrypoint=("/exit",))

        def command(*args, **changed):
            return subprocess.run(
                argv(store, *args),
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
                env={**environment, **changed},
            )

        yield command, ["--vmm", "firecracker", "--kernel", str(kernel)], tmp_path / "store"
        for name in command("ps", "-aq").stdout.split():
            command("rm", "-f", name)


def test_a_machine_runs_jailed_and_ends_with_its_own_status_and_nothing_is_left(firekiln):
    command, options, store = firekiln
    done = command("run", "--rm", *options, "small", "42")
    assert done.returncode == 42, done.stderr
    seen = json.loads(done.stdout)
    assert seen["uid"] >= 0x70000000
    assert "api.sock" in seen["cwd"]
    # The guest is told its drives by their places, which are those of the requests.
    assert [drive["path_on_host"] for drive in seen["drives"]] == ["/drive0", "/drive1"]
    assert seen["root"]["layers"] == [{"index": 0}]
    assert seen["root"]["scratch"] == {"index": 1}
    assert not (store / "jail" / "firecracker").exists()
    groups = Path("/sys/fs/cgroup").glob("*/firekiln/*")
    assert not [group for group in groups if group.name in done.stdout]


def test_a_detached_machine_stops_in_order_and_a_killed_one_is_told(firekiln):
    command, options, store = firekiln
    name = command("run", "-d", "--name", "first", "--entrypoint", "/wait", *options, "small").stdout.strip()
    assert command("ps", "--format", "{{.Names}}").stdout == "first\n", command("inspect", "first").stdout
    (jail,) = (store / "jail" / "firecracker").iterdir()
    assert jail.name == name
    assert command("stop", "first").returncode == 0
    assert command("wait", "first").stdout == "0\n"
    assert not jail.exists()
    command("run", "-d", "--name", "second", "--entrypoint", "/wait", *options, "small")
    pid = int(command("inspect", "-f", "{{.State.Pid}}", "second").stdout)
    assert Path(f"/proc/{pid}").stat().st_uid >= 0x70000000
    os.kill(pid, signal.SIGKILL)
    assert command("wait", "second").stdout == "137\n"
    deadline = time.monotonic() + 5
    while (store / "jail" / "firecracker").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not (store / "jail" / "firecracker").exists()


@pytest.mark.parametrize(
    ("words", "changed", "message"),
    [
        (["-p", "127.0.0.1:0:80", "--network", "absent"], {}, "network absent not found"),
        ([], {"STANDIN_DOES": "odd"}, "1.14.3 has known holes"),
        ([], {"STANDIN_DOES": "die"}, "Firecracker ended before its API answered"),
        ([], {"STANDIN_DOES": "hopeless"}, "Firecracker needs KVM, which runs no guest here"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_and_leaves_nothing(firekiln, words, changed, message):
    command, options, store = firekiln
    done = command("run", "--rm", *words, *options, "small", **changed)
    assert done.returncode == 125
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (store / "jail" / "firecracker").exists()
    assert not command("ps", "-aq").stdout


def test_a_killed_supervisors_machine_is_told_starts_again_and_is_removed_with_its_jail(firekiln):
    command, options, store = firekiln
    command("run", "-d", "--name", "orphan", "--entrypoint", "/wait", *options, "small")
    with supervisor_killed(command) as guest:
        assert select.select([guest], [], [], 5)[0], "the guest outlives its supervisor"
    assert "Exited" in command("ps", "-a", "--format", "{{.Status}}").stdout
    assert command("start", "orphan").returncode == 0
    assert command("ps", "--format", "{{.Names}}").stdout == "orphan\n"
    with supervisor_killed(command):
        assert command("rm", "-f", "orphan").returncode == 0
    assert not list((store / "jail").glob("*/*"))


@contextmanager
def supervisor_killed(command):
    """Kill the supervisor of `orphan`; a descriptor of its guest's process."""
    pid = int(command("inspect", "-f", "{{.State.Pid}}", "orphan").stdout)
    status = Path(f"/proc/{pid}/status").read_text()
    guest = os.pidfd_open(pid)
    try:
        os.kill(int(re.search(r"^PPid:\s+(\d+)", status, re.MULTILINE)[1]), signal.SIGKILL)
        yield guest
    finally:
        os.close(guest)
