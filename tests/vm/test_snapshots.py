"""Snapshots of machines that run, and machines that start from them: real ones, few boots, each asked much."""

import json
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from firekiln.errors import ConflictError, MachineError, UsageError
from firekiln.machine.created import begin
from firekiln.machine.machine import Machine
from firekiln.machine.options import RunOptions
from firekiln.machine.run import start
from firekiln.machine.snapshot.clone import CloneOptions, clone
from firekiln.machine.snapshot.ready import await_ready
from firekiln.machine.snapshot.snapshots import SnapshotNotFoundError, Snapshots
from firekiln.machine.snapshot.take import take
from firekiln.machine.supervision import control
from firekiln.machine.supervision.state import State
from firekiln.machine.volumes.drives import Volumes
from firekiln.machine.volumes.mountspec import parse_volume
from firekiln.oci.config import Healthcheck
from firekiln.store import gc
from machines import argv, busybox, output, put_image
from trees import file, folder

DEADLINE = 120
SERVER = b"""#!/bin/sh
echo booted
echo "before" > /www/state
httpd -p 80 -h /www
while :; do
  echo "line $(date +%s) $(cat /proc/sys/kernel/random/uuid)"
  sleep 0.2
done
"""
CHECK = Healthcheck(
    test=("CMD", "wget", "-q", "-O", "-", "http://127.0.0.1/state"),
    interval=200_000_000,
    timeout=60_000_000_000,
    retries=1000,
)


@pytest.fixture(scope="module")
def image(store):
    program = {b"serve": file(SERVER, mode=0o755)}
    tree = folder({**busybox().children, b"sbin": folder(program)})
    options = {"entrypoint": ("/sbin/serve",), "exposed_ports": ("80/tcp",), "healthcheck": CHECK}
    return put_image(store, "server", tree, **options)


@pytest.fixture(scope="module")
def source(store, image):
    """A machine that serves, with a snapshot `served` of the moment when its check first succeeded."""
    machine = start(store, RunOptions(image="server", publish=("127.0.0.1::80",), memory=128 << 20))
    done = subprocess.run(
        argv(store, "snapshot", "create", "--when-healthy", machine.id, "served"), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"served\n"), done.stderr
    yield machine
    machine.remove(force=True)


@pytest.fixture(scope="module")
def served(store, source):
    return Snapshots(store).get("served")


@pytest.fixture
def cloned(store, served):
    """Start clones; whatever becomes of the test, they end with it."""
    machines = []

    def start_one(**options):
        machines.append(begin(clone(store, served, CloneOptions(publish=("127.0.0.1::80",), **options))))
        return machines[-1]

    yield start_one
    for machine in machines:
        machine.__exit__(None, None, None)


def get(machine, path="/state"):
    """What the machine serves, waited for."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", machine.ports[0].host_port), timeout=5) as client:
                client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                answer = b"".join(iter(lambda: client.recv(4096), b""))
        except OSError:
            answer = b""
        if answer:
            return answer.partition(b"\r\n\r\n")[2].decode()
        time.sleep(0.02)
    raise AssertionError(f"{machine.name} does not serve")


def asked(store, machine, script):
    """What a shell in the machine says."""
    done = subprocess.run(argv(store, "exec", machine.id, "sh", "-c", script), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().split()


def lines(machine, number):
    """So many of the lines that the machine's process has written, as pairs of a time and a random word."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        found = [line.split()[1:] for line in output(machine).splitlines() if line.startswith("line ")]
        if len(found) >= number:
            return [(int(when), word) for when, word in found[:number]]
        time.sleep(0.02)
    raise AssertionError(output(machine))


def inspected(store, machine):
    (found,) = json.loads(subprocess.run(argv(store, "inspect", machine.id), capture_output=True, check=True).stdout)
    return found


def test_a_snapshot_at_the_first_healthy_moment_starts_three_clones_at_once_each_itself(store, source, served, cloned):
    """Fault 48, first half, and the issue's last line."""
    begun = int(time.time())
    with ThreadPoolExecutor(3) as pool:
        machines = list(pool.map(lambda _: cloned(), range(3)))
    assert [get(machine) for machine in machines] == ["before\n"] * 3
    who = (
        "cat /etc/machine-id /etc/hostname; hostname; cat /sys/class/net/eth0/address; head -c 16 /dev/urandom | md5sum"
    )
    identities = [asked(store, machine, who) for machine in (*machines, source)]
    for number in range(5):
        assert len({identity[number] for identity in identities[:3]}) == 3, identities
    for machine, identity in zip(machines, identities, strict=False):
        assert identity[1:3] == [machine.id[:12]] * 2
        assert identity[3] == machine.settings.spec.nics[0].mac
        before = time.time()
        (now,) = asked(store, machine, "date +%s")
        assert int(before) - 1 <= int(now) <= time.time() + 1
        found = inspected(store, machine)
        assert found["State"]["Health"]["Status"] == "healthy"
        assert found["Config"]["Hostname"] == identity[1]
    # Nothing of the application's work was done with the time or the random numbers of then: but for its first line,
    # which may have been half made, each has lines of its own.
    told = [lines(machine, 4)[1:] for machine in machines]
    assert all(when >= begun for line in told for when, _ in line), told
    assert len({word for line in told for _, word in line}) == 9
    assert all("booted" not in output(machine) for machine in machines)
    assert output(source).startswith("booted")
    assert get(source) == "before\n"
    names = {record.id for record in State(store.machines).list() if record.status == "running"}
    assert names >= {machine.id for machine in (*machines, source)}
    machines[0].stop(5)
    assert machines[0].record.status == "exited"


@pytest.mark.parametrize("name", ["memory", "state", "drives/scratch", "snapshot.json"])
def test_a_corrupted_snapshot_is_refused(store, served, firekiln, name):
    """Fault 48, second half. What is as it was again is taken again."""
    path = served.folder / name
    data = path.read_bytes() if name != "drives/scratch" else None
    with path.open("r+b") as whole:
        place = os.lseek(whole.fileno(), 0, os.SEEK_DATA) + 100
        byte = os.pread(whole.fileno(), 1, place)
        os.pwrite(whole.fileno(), bytes([byte[0] ^ 1]), place)
        done = firekiln("run", "-d", "--snapshot", "served")
        os.pwrite(whole.fileno(), byte, place)
    assert (done.returncode, done.stdout) == (125, b""), done
    assert b'the snapshot "served" is corrupted, and refused: ' in done.stderr
    assert b"firekiln snapshot rm served" in done.stderr
    assert data is None or path.read_bytes() == data
    Snapshots(store).check(Snapshots(store).get("served"))


def test_one_that_lacks_a_file_is_refused(store, served):
    (served.folder / "state").rename(served.folder / "elsewhere")
    try:
        with pytest.raises(MachineError, match="corrupted, and refused: state is gone"):
            clone(store, served, CloneOptions())
    finally:
        (served.folder / "elsewhere").rename(served.folder / "state")


def test_a_clone_takes_only_what_is_its_own(store, served, firekiln):
    for words in (("-e", "A=1"), ("-m", "64m"), ("-v", "data:/data"), ("--user", "web"), ("-i",)):
        done = firekiln("run", "-d", *words, "--snapshot", "served")
        assert (done.returncode, done.stdout) == (125, b""), done
        assert b"--snapshot: the machine that was saved has its own" in done.stderr
    done = firekiln("run", "-d", "--snapshot", "served", "busybox")
    assert b"the snapshot served is of another image" in done.stderr
    done = firekiln("run", "--snapshot", "nosuch")
    assert (done.returncode, done.stderr.splitlines()[0]) == (125, b"firekiln: No such snapshot: nosuch")
    assert firekiln("run").returncode == 125


def test_a_snapshot_keeps_what_its_machines_need(store, source, served, firekiln):
    held = gc.in_use(store)
    assert {*served.layers, served.image_digest, served.decoded().kernel_digest} <= held
    rows = {
        row["Type"]: row for row in map(json.loads, firekiln("system", "df", "--format", "json").stdout.splitlines())
    }
    assert rows["Snapshots"]["TotalCount"] == "1"
    assert firekiln("snapshot", "ls", "-q").stdout == b"served\n"
    (shown,) = json.loads(firekiln("snapshot", "inspect", "served").stdout)
    assert (shown["Health"], shown["Machine"], shown["Memory"]) == ("healthy", source.id, 128 << 20)
    with pytest.raises(ConflictError, match="is there already"):
        take(store, source, "served")
    assert firekiln("snapshot", "prune", "-f").returncode == 0  # it is nobody's but the user's
    assert Snapshots(store).find("served") is not None


def test_the_machine_goes_on_when_whoever_saves_it_is_killed(store, source, tmp_path):
    state = State(store.machines)
    with control.connect(state.folder_of(source.id), {"do": "snapshot", "folder": str(tmp_path)}) as client:
        client.settimeout(DEADLINE)
        line, fds, _, _ = socket.recv_fds(client, 4096, 4)
        assert json.loads(line) == {"paused": True}
        assert (tmp_path / "state").stat().st_size > 1000
        for fd in fds:
            os.close(fd)
        with pytest.raises(ConflictError, match="somebody else is making a snapshot"):
            take(store, source, "second")
    assert get(source) == "before\n"
    seen = len(lines(source, 1))
    assert lines(source, seen + 2)
    with pytest.raises(SnapshotNotFoundError):
        Snapshots(store).get("second")
    assert not any(name.endswith("second") for name in store.leases.names())


@pytest.mark.slow
def test_a_machine_whose_vmm_is_killed_while_it_stands_still_is_no_snapshot(store, boot, image, tmp_path):
    machine = boot(image="server", memory=128 << 20)
    folder = State(store.machines).folder_of(machine.id)
    with control.connect(folder, {"do": "snapshot", "folder": str(tmp_path)}) as client:
        client.settimeout(DEADLINE)
        line, fds, _, _ = socket.recv_fds(client, 4096, 4)
        assert json.loads(line) == {"paused": True}
        for fd in fds:
            os.close(fd)
        os.kill(machine.record.pid, signal.SIGKILL)
        assert json.loads(client.recv(4096)) == {"error": "the machine has ended"}
    assert machine.wait(DEADLINE) == 137


@pytest.mark.slow
def test_a_stop_is_not_held_up_by_who_saves(store, boot, image, tmp_path):
    machine = boot(image="server", memory=128 << 20)
    folder = State(store.machines).folder_of(machine.id)
    with control.connect(folder, {"do": "snapshot", "folder": str(tmp_path)}) as client:
        client.settimeout(DEADLINE)
        line, fds, _, _ = socket.recv_fds(client, 4096, 4)
        assert json.loads(line) == {"paused": True}
        for fd in fds:
            os.close(fd)
        machine.kill(signal.SIGKILL)
        assert json.loads(client.recv(4096)) == {"error": "the machine was stopped meanwhile"}
    assert machine.wait(DEADLINE) == 137


@pytest.mark.slow
def test_what_clones_could_not_share_is_no_snapshot(store, boot, image, cloned):
    for options, reason in (
        ({"stdin": True}, "a standard input or a terminal"),
        ({"mounts": (parse_volume("shared:/data"),)}, "the volume shared is mounted at /data"),
    ):
        machine = boot(image="server", **options)
        with pytest.raises(UsageError, match=reason):
            take(store, machine, "never")
    with pytest.raises(ConflictError, match="was started from a snapshot itself"):
        take(store, cloned(), "never")
    assert [item.name for item in Snapshots(store).list()] == ["served"]


@pytest.mark.slow
def test_a_clone_that_ended_boots_from_its_own_disk(store, cloned):
    machine = cloned()
    asked(store, machine, "echo kept > /www/state; sync")
    machine.stop(5)
    machine.start()
    deadline = time.monotonic() + DEADLINE
    while "booted" not in output(machine):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert asked(store, machine, "hostname; cat /etc/machine-id")[0] == machine.id[:12]


@pytest.mark.slow
def test_a_volume_without_a_name_is_copied_with_the_machine(store, boot):
    program = b"#!/bin/sh\n[ -e /data/f ] || echo first > /data/f\nsync\nhttpd -p 80 -h /data\nsleep 100000\n"
    tree = folder({**busybox().children, b"data": folder({}), b"go": file(program, mode=0o755)})
    put_image(store, "keeps", tree, entrypoint=("/go",), exposed_ports=("80/tcp",), volumes=("/data",))
    machine = boot(image="keeps", publish=("127.0.0.1::80",))
    await_ready(State(store.machines), machine, timeout=DEADLINE)
    snapshot = take(store, machine, "with-volume")
    try:
        with begin(clone(store, snapshot, CloneOptions(publish=("127.0.0.1::80",)))) as other:
            assert get(other, "/f") == "first\n"
            asked(store, other, "echo other > /data/f; sync")
            assert get(machine, "/f") == "first\n"
            assert get(other, "/f") == "other\n"
            assert len({point.name for item in (machine, other) for point in item.settings.mounts}) == 2
            other.remove(force=True, volumes=True)
    finally:
        Snapshots(store).remove("with-volume")
    assert len(Volumes(store).list()) == 1 + any(item.name == "shared" for item in Volumes(store).list())


@pytest.mark.slow
def test_run_warm_boots_once_and_then_goes_on_from_there(store, image, own_kernel, firekiln):
    place = store.kernels / own_kernel.image.parent.name
    if not place.exists():
        place.symlink_to(own_kernel.image.parent)
    words = ("run", "-d", "--warm", "-m", "128m", "-p", "127.0.0.1:0:80")
    state = State(store.machines)
    made = []
    try:
        made.append(Machine(state, firekiln(*words, "server").stdout.decode().strip()))
        deadline = time.monotonic() + DEADLINE
        while not (found := [item for item in Snapshots(store).list() if item.is_automatic]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        made += [Machine(state, firekiln(*words, "server").stdout.decode().strip()) for _ in range(2)]
        assert [get(machine) for machine in made] == ["before\n"] * 3
        assert ["booted" in output(machine) for machine in made] == [True, False, False]
        made.append(Machine(state, firekiln(*words, "-e", "A=1", "server").stdout.decode().strip()))
        get(made[-1])
        assert "booted" in output(made[-1])
        with (found[0].folder / "memory").open("r+b") as file:
            file.seek(1 << 20)
            byte = file.read(1)
            file.seek(1 << 20)
            file.write(bytes([byte[0] ^ 1]))
        done = firekiln(*words, "server")
        made.append(Machine(state, done.stdout.decode().strip()))
        assert b"is corrupted, and refused: memory is not what was saved; booting in its place" in done.stderr
        get(made[-1])
        assert "booted" in output(made[-1])
        assert firekiln("run", "--warm", "-v", "data:/data", "server").stderr.startswith(
            b"firekiln: --warm: no snapshot"
        )
    finally:
        for machine in made:
            if machine.id:
                machine.remove(force=True)
        firekiln("snapshot", "prune", "-f")
        place.unlink()
    assert [item.name for item in Snapshots(store).list()] == ["served"] or not Snapshots(store).list()
