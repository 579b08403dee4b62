"""What goes wrong with machines, made to go wrong: each fault of the table in docs/reference/machines.md."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from faults import Disk
from firekiln.machine.kernel import kernels
from firekiln.machine.machine import Machine
from firekiln.machine.options import RunOptions
from firekiln.machine.run import start
from firekiln.machine.supervision.state import State
from firekiln.machine.volumes.mountspec import parse_volume
from firekiln.store import Store
from machines import argv, busybox, output, put_image

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "machines.md"
FOREVER = ("sh", "-c", "trap 'echo stopped; exit 3' TERM; echo ready; while :; do sleep 0.1; done")
PATIENCE = 60
"""Seconds: what must happen happens within a few; a busy host takes longer, and fails no test by that."""


def documented():
    """The exit statuses that the table gives, by the names of the tests in its last column."""
    rows = re.findall(r"^\| .*? \| .*? \| (.*?) \| `(\w+)` \|$", TABLE.read_text(), re.MULTILINE)
    return {test: status for status, test in rows}


def wait_for(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def inspect(firekiln, machine):
    return json.loads(firekiln("inspect", machine.name).stdout)[0]["State"]


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def most_resident(pid):
    """Bytes of memory that a process has had at most, what it shares included."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def said(done):
    return done.stderr.decode()


def test_the_table_names_the_tests_there_are():
    here = {name for name, value in globals().items() if name.startswith("test_") and callable(value)}
    here |= set(re.findall(r"^def (test_\w+)", Path(__file__).with_name("test_machine.py").read_text(), re.MULTILINE))
    here |= set(re.findall(r"^def (test_\w+)", Path(__file__).with_name("test_volumes.py").read_text(), re.MULTILINE))
    assert len(documented()) == 12
    assert set(documented()) <= here


def test_a_guest_whose_kernel_panics_ends_with_a_status_of_its_own(firekiln):
    script = "echo before; sleep 0.2; echo c > /proc/sysrq-trigger; sleep 60"
    done = firekiln("run", "--name", "panics", "busybox", "sh", "-c", script)
    try:
        assert str(done.returncode) == documented()["test_a_guest_whose_kernel_panics_ends_with_a_status_of_its_own"]
        assert done.stdout == b"before\n"
        assert said(done) == "firekiln: the guest ended without a word: its kernel panicked or was reset\n"
        assert b"Exited (255)" in firekiln("ps", "-a", "--filter", "name=panics").stdout
    finally:
        firekiln("rm", "-f", "panics")


def test_a_guest_that_runs_out_of_memory_is_told_apart_from_one_that_was_killed(boot, firekiln):
    machine = boot("tail", "/dev/zero", memory=96 << 20)
    status = machine.wait(PATIENCE)
    expected = documented()["test_a_guest_that_runs_out_of_memory_is_told_apart_from_one_that_was_killed"]
    assert str(status) == expected
    state = inspect(firekiln, machine)
    assert (state["OOMKilled"], state["Error"], state["Status"]) == (True, "", "exited")


def test_a_guest_that_hangs_becomes_unhealthy_and_can_be_ended(boot, firekiln):
    """Its kernel panics and then, as it is told not to reboot, does nothing more: no agent, no process, no end."""
    hang = "sleep 0.5; echo 0 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger"
    second = 1_000_000_000
    check = {"interval": second, "timeout": second, "retries": 1, "start_interval": second}
    machine = boot("sh", "-c", f"{hang}; sleep 600", health={"test": ("CMD", "true"), **check})
    wait_for(lambda: inspect(firekiln, machine)["Health"]["Status"] == "unhealthy")
    state = inspect(firekiln, machine)
    assert state["Status"] == "running"
    assert state["Health"]["Log"][-1]["Output"].endswith("the guest does not answer")
    assert firekiln("kill", machine.name).returncode == 0
    assert str(machine.wait(PATIENCE)) == documented()["test_a_guest_that_hangs_becomes_unhealthy_and_can_be_ended"]


def test_a_stopped_vmm_is_a_paused_machine_and_a_stopped_supervisor_obeys_all_the_same(boot, firekiln):
    machine = boot(*FOREVER)
    wait_for(lambda: "ready" in output(machine))
    vmm = machine.record.pid
    os.kill(vmm, signal.SIGSTOP)
    wait_for(lambda: machine.record.status == "paused")
    assert b"(Paused)" in firekiln("ps", "--filter", f"name={machine.name}").stdout
    assert inspect(firekiln, machine)["Paused"] is True
    for words in (("exec", machine.name, "true"), ("top", machine.name), ("pause", machine.name)):
        done = firekiln(*words)
        assert done.returncode == 1, words
        assert "paused" in said(done).splitlines()[0]
    assert firekiln("unpause", machine.name).returncode == 0
    assert firekiln("exec", machine.name, "echo", "here").stdout == b"here\n"
    assert "is not paused" in said(firekiln("unpause", machine.name))
    assert firekiln("pause", machine.name).returncode == 0
    assert machine.record.status == "paused"
    os.kill(parent_of(vmm), signal.SIGSTOP)
    assert firekiln("stop", machine.name).returncode == 0  # its process is asked first, and ends by itself
    name = "test_a_stopped_vmm_is_a_paused_machine_and_a_stopped_supervisor_obeys_all_the_same"
    assert str(machine.record.exit_status) == documented()[name]


@pytest.mark.slow
def test_a_stopped_vmm_and_supervisor_are_removed_by_force(boot, firekiln):
    machine = boot(*FOREVER)
    vmm = machine.record.pid
    supervisor = parent_of(vmm)
    for pid in (vmm, supervisor):
        os.kill(pid, signal.SIGSTOP)
    assert firekiln("rm", "-f", machine.name).returncode == 0
    assert not Path(f"/proc/{vmm}").exists()
    wait_for(lambda: not Path(f"/proc/{supervisor}").exists())


@pytest.mark.parametrize(
    ("console", "written"), [(20, 8_000_000), pytest.param(100, 300_000_000, marks=pytest.mark.slow)]
)
def test_floods_of_a_guest_are_bounded_and_its_full_disk_is_its_own_matter(boot, firekiln, console, written):
    """Console and output are flooded at once."""
    flood = f"dd if=/dev/zero bs=64k count={console} 2>/dev/null | tr '\\0' x > /dev/console"
    fill = "dd if=/dev/zero of=/big bs=1M; echo $?; rm /big"
    script = f"{flood} & yes 0123456789abcdef | head -c {written}; wait; {fill}; echo done; sleep 600"
    machine = boot("sh", "-c", script, disk_size=48 << 20)
    supervisor = parent_of(machine.record.pid)
    folder = machine._state.folder_of(machine.id)
    wait_for(lambda: b'"done\\n"' in (folder / "log.json").read_bytes()[-200:], 10 * PATIENCE)
    lines = firekiln("logs", "-n", "5", machine.name)
    assert lines.stdout.endswith(b"1\ndone\n")
    assert b"No space left on device" in lines.stderr
    assert 1 << 20 <= (folder / "console.log").stat().st_size <= (1 << 20) + (1 << 16)
    assert sum(path.stat().st_size for path in folder.glob("log.json*")) < 52 << 20
    assert most_resident(supervisor) < 40 << 20
    assert firekiln("exec", machine.name, "echo", "here").stdout == b"here\n"


def test_of_two_machines_that_race_for_a_port_one_runs_and_the_other_is_told(store, firekiln):
    port = free_port()
    names = ["racer0", "racer1"]
    words = ("-p", f"{port}:80", "busybox", *FOREVER)
    running = [
        subprocess.Popen(argv(store, "run", "-d", "--name", name, *words), stderr=subprocess.PIPE, text=True)
        for name in names
    ]
    try:
        ends = [(process.communicate(timeout=PATIENCE)[1], process.returncode) for process in running]
        (loser,) = [complaint for complaint, status in ends if status]
        expected = documented()["test_of_two_machines_that_race_for_a_port_one_runs_and_the_other_is_told"]
        assert sorted(status for _, status in ends) == [0, int(expected)]
        assert re.match(rf"firekiln: Bind for 127.0.0.1:{port} failed: port is already allocated\n", loser)
        listed = firekiln("ps", "--format", "{{.Names}} {{.Ports}}").stdout.decode()
        assert next(line for line in listed.splitlines() if "racer" in line).endswith(f"127.0.0.1:{port}->80/tcp")
        assert listed.count("racer") == 1
    finally:
        firekiln("rm", "-f", *names)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, of 96 MiB."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root, to mount a disk")
    made = Disk(tmp_path, "ext4", size=96 << 20)
    try:
        yield made
    finally:
        made.unmount()


@contextlib.contextmanager
def filled_store(folder, kernel_folder):
    """A store that holds a kernel and the image `busybox`, and whose machines end with it."""
    with Store.open(folder) as store:
        for kernel in kernels(kernel_folder):
            (store.kernels / kernel.image.parent.name).symlink_to(kernel.image.parent)
        put_image(store, "busybox", busybox(), cmd=("/bin/sh",))
        try:
            yield store
        finally:
            state = State(store.machines)
            for record in state.list():
                Machine(state, record.id).remove(force=True)


@pytest.fixture
def small_store(disk, kernel_folder):
    """A store on that disk."""
    with filled_store(disk.path / "store", kernel_folder) as store:
        yield store


def test_a_full_disk_of_the_host_is_an_error_in_the_guest_and_other_machines_live(small_store, disk):
    store = small_store

    def firekiln(*words):
        return subprocess.run(argv(store, *words), capture_output=True, check=False, timeout=PATIENCE)

    writer, other = (start(store, RunOptions(image="busybox", args=FOREVER)) for _ in range(2))
    filler = disk.leave(2 << 20)
    done = firekiln("exec", writer.name, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=24", "conv=fsync")
    assert done.returncode == 1
    assert b"Input/output error" in done.stderr
    assert firekiln("exec", other.name, "echo", "here").stdout == b"here\n"
    listed = firekiln("ps", "--format", "{{.Names}} {{.Status}}").stdout.decode()
    assert all(f"{machine.name} Up" in listed for machine in (writer, other)), listed
    console = (store.machines / writer.id / "console.log").read_text(errors="replace")
    assert "I/O error" in console
    assert firekiln("stop", "-t", "5", other.name).returncode == 0
    expected = documented()["test_a_full_disk_of_the_host_is_an_error_in_the_guest_and_other_machines_live"]
    assert (other.record.status, str(other.record.exit_status)) == ("exited", expected)
    filler.unlink()
    assert (other.record.status, str(other.record.exit_status)) == ("exited", expected)
    assert firekiln("rm", "-f", writer.name, other.name).returncode == 0


@pytest.mark.slow
def test_what_a_guest_has_synced_to_a_volume_survives_a_loss_of_power(disk, kernel_folder, tmp_path):
    """The volume is on a disk that loses its power; what else is about the machine is not."""
    script = "echo precious > /data/kept && sync && echo synced; sleep 600"
    mounts = (parse_volume("kept:/data"),)
    name = "test_what_a_guest_has_synced_to_a_volume_survives_a_loss_of_power"
    with filled_store(tmp_path / "store", kernel_folder) as store:
        with start(store, RunOptions(image="busybox", args=("true",), mounts=mounts)) as first:
            assert first.wait(PATIENCE) == 0
        subprocess.run(["cp", "-a", "--sparse=always", store.root / "volumes" / "kept", disk.path], check=True)
        shutil.rmtree(store.root / "volumes" / "kept")
        (store.root / "volumes" / "kept").symlink_to(disk.path / "kept")
        os.sync()
        machine = start(store, RunOptions(image="busybox", args=("sh", "-c", script), mounts=mounts))
        wait_for(lambda: "synced\n" in output(machine))
        disk.lose_power()
        os.kill(machine.record.pid, signal.SIGKILL)
        assert str(machine.wait(PATIENCE)) == documented()[name]
        wait_for(lambda: subprocess.run(["umount", disk.path], check=False, capture_output=True).returncode == 0)
        disk.mount()
        with start(store, RunOptions(image="busybox", args=("cat", "/data/kept"), mounts=mounts)) as other:
            assert other.wait(PATIENCE) == 0
            assert output(other) == "precious\n"


@pytest.mark.slow
def test_a_boot_that_starts_nothing_ends_after_a_minute(store):
    """The VMM is stopped before its guest has done anything."""
    process = subprocess.Popen(argv(store, "run", "--name", "late", "busybox", "true"), stderr=subprocess.PIPE)
    try:
        stopped = set()

        def has_one():
            stopped.update(vmms(store))
            return stopped

        wait_for(has_one)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        complaint = process.communicate(timeout=120)[1].decode()
    finally:
        process.kill()
        process.wait()
    assert complaint.splitlines()[0] == "firekiln: the guest did not start its process within 60 s"
    assert str(process.returncode) == documented()["test_a_boot_that_starts_nothing_ends_after_a_minute"]
    Machine.find(State(store.machines), "late").remove()


def vmms(store):
    """Process ids of the store's VMMs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"qemu" in words[0] and any(str(store.root).encode() in word for word in words):
                found.append(int(path.parent.name))
    return found
