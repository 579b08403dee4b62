"""Machines booted for real: exit statuses, outputs, signals, ports, the life of detached ones."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from firekiln.errors import ConflictError, FirekilnError
from firekiln.machine.inspection import machine_inspect
from firekiln.machine.options import RunOptions
from firekiln.machine.run import start
from firekiln.machine.supervision.state import State
from machines import argv, busybox, output, put_image
from trees import file, folder

FOREVER = ("sh", "-c", "trap 'echo stopped; exit 3' TERM; echo ready; while :; do sleep 0.1; done")


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def processes_of(machine):
    """Process ids of VMMs that have a file of the machine open or named."""
    name = machine.id[:12]
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"qemu" in words[0] and any(name.encode() in word for word in words):
            found.append(int(path.parent.name))
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_command_in_the_foreground_passes_its_outputs_and_its_status_on(firekiln, store):
    done = firekiln("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)
    assert State(store.machines).list() == []
    assert not [path for path in store.machines.iterdir() if path.is_dir() and path.name != "cache"]


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("kill -9 $$", 137), ("kill -TERM $$", 143)], ids=["0", "KILL", "TERM"]
)
def test_the_exit_status_is_the_commands(boot, script, status):
    machine = boot("sh", "-c", script)
    assert machine.wait() == status
    assert machine.record.error == ""


def test_arguments_and_variables_arrive_as_they_are(boot):
    words = ("a b", "'\"$HOME`\\", "line\nline", "", "ü")
    machine = boot("sh", "-c", 'printf "<%s>" "$@"; printf "%s" "$WORD"', "sh", *words, env=("WORD=x y\n$z",))
    assert machine.wait() == 0
    assert output(machine) == "".join(f"<{word}>" for word in words) + "x y\n$z"


def test_a_program_that_is_not_there_ends_with_127_and_one_that_cannot_run_with_126(firekiln):
    done = firekiln("run", "--rm", "busybox", "/no/such")
    assert done.returncode == 127, done.stderr
    assert b"/no/such" in done.stderr
    assert firekiln("run", "-d", "--rm", "busybox", "/etc/passwd").returncode == 126


def test_ctrl_c_stops_the_service_by_its_stop_signal(store):
    process = subprocess.Popen(argv(store, "run", "--rm", "busybox", *FOREVER), stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (rest, process.returncode) == (b"stopped\n", 3)


def test_a_service_that_ignores_its_stop_signal_is_killed_after_the_time_out(boot):
    machine = boot("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    wait_for(lambda: "ready" in output(machine))
    started = time.monotonic()
    machine.stop(1)
    assert 0.9 < time.monotonic() - started < 8
    assert machine.record.exit_status == 137


def test_a_published_port_answers(boot):
    port = free_port()
    machine = boot("httpd", "-f", "-p", "80", "-h", "/www", publish=(f"{port}:80",))

    def answer():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
        except OSError:
            return b""

    wait_for(lambda: answer() == b"hello from the machine\n")
    (bound,) = machine_inspect(machine._state, machine.name)["NetworkSettings"]["Ports"]["80/tcp"]
    assert bound == {"HostIp": "127.0.0.1", "HostPort": str(port)}


def test_a_taken_port_is_an_error_before_anything_boots(store, firekiln):
    before = State(store.machines).list()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConflictError, match=f"{port} failed: port is already allocated"):
            start(store, RunOptions(image="busybox", publish=(f"{port}:80",)))
        done = firekiln("run", "-p", f"{port}:80", "busybox", "true")
    assert done.returncode == 125
    assert done.stderr.startswith(f"firekiln: Bind for 127.0.0.1:{port} failed".encode())
    assert State(store.machines).list() == before


def test_a_detached_machine_is_listed_read_stopped_and_removed(firekiln):
    made = firekiln("run", "-d", "--name", "service", "busybox", *FOREVER)
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.strip()) == 64
    (line,) = firekiln("ps", "--format", "json").stdout.splitlines()
    listed = json.loads(line)
    assert (listed["Names"], listed["Image"], listed["State"]) == ("service", "busybox", "running")
    assert listed["Status"].startswith("Up ")
    wait_for(lambda: firekiln("logs", "service").stdout == b"ready\n")
    assert firekiln("rm", "service").returncode == 1
    assert firekiln("stop", "service").stdout == b"service\n"
    assert firekiln("wait", "service").stdout == b"3\n"
    assert firekiln("logs", "-n", "1", "service").stdout == b"stopped\n"
    assert firekiln("ps", "-q").stdout == b""
    assert b"Exited (3)" in firekiln("ps", "-a").stdout
    assert firekiln("run", "--name", "service", "busybox", "true").returncode == 125
    assert firekiln("rm", "service").returncode == 0
    assert firekiln("ps", "-a", "-q").stdout == b""


def test_following_the_log_ends_with_the_machine_and_wait_gives_its_status(boot, firekiln):
    machine = boot("sh", "-c", "for n in 1 2 3; do echo $n; sleep 0.2; done; exit 4")
    assert firekiln("logs", "-f", machine.name).stdout == b"1\n2\n3\n"
    assert firekiln("wait", machine.id[:12]).stdout == b"4\n"


def test_kill_sends_the_signal_that_is_named(boot, firekiln):
    machine = boot("sh", "-c", "trap 'echo usr1; exit 5' USR1; echo ready; while :; do sleep 0.1; done")
    wait_for(lambda: "ready" in output(machine))
    assert firekiln("kill", "-s", "USR1", machine.name).returncode == 0
    assert machine.wait() == 5
    assert b"is not running" in firekiln("kill", machine.name).stderr


@pytest.mark.parametrize("victim", ["supervisor", "vmm"])
def test_after_a_kill_nothing_runs_and_ps_says_so(boot, firekiln, victim):
    machine = boot(*FOREVER)
    (vmm,) = processes_of(machine)
    assert machine.record.pid == vmm
    stat = Path(f"/proc/{vmm}/stat").read_text()
    supervisor = int(stat.rpartition(")")[2].split()[1])
    os.kill(supervisor if victim == "supervisor" else vmm, signal.SIGKILL)
    wait_for(lambda: not processes_of(machine))
    wait_for(lambda: machine.record.status == "exited")
    assert machine.record.exit_status == 137
    assert machine.record.error
    assert machine.id[:12].encode() not in firekiln("ps").stdout
    assert firekiln("rm", machine.name).returncode == 0


def test_a_command_line_that_is_killed_while_it_waits_leaves_no_machine_behind(store):
    process = subprocess.Popen(argv(store, "run", "busybox", *FOREVER), stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    (record,) = [record for record in State(store.machines).list() if record.status == "running"]
    process.kill()
    process.communicate()
    wait_for(lambda: State(store.machines).get(record.id).status == "exited")
    assert not Path(f"/proc/{record.pid}").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [["--rm"], ["-d"]])
def test_a_run_that_is_interrupted_while_it_boots_ends_quietly_and_leaves_nothing(store, options, number):
    before = State(store.machines).list()
    process = subprocess.Popen(
        argv(store, "run", *options, "--name", "early", "busybox", *FOREVER),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: any(Path(f"/proc/{child}/comm").read_text() == "firekiln-vm\n" for child in vmms(store)))
    process.send_signal(number)
    said = process.communicate(timeout=20)
    assert (process.returncode, *said) == (128 + number, b"", b"")
    assert State(store.machines).list() == before
    assert vmms(store) == []


def vmms(store):
    """Process ids of the store's VMMs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"qemu" in words[0] and any(str(store.root).encode() in word for word in words):
            found.append(int(path.parent.name))
    return found


def test_leaving_a_machines_context_ends_and_removes_it(store):
    with start(store, RunOptions(image="busybox", args=FOREVER)) as machine:
        assert machine.record.status == "running"
        (vmm,) = processes_of(machine)
    assert not Path(f"/proc/{vmm}").exists()
    with pytest.raises(FirekilnError, match="No such container"):
        _ = machine.record


def test_a_kernel_that_does_not_boot_is_an_error_and_leaves_nothing(store, tmp_path):
    before = State(store.machines).list()
    broken = tmp_path / "vmlinux"
    broken.write_bytes(b"\x7fELF" + bytes(4096))
    with pytest.raises(FirekilnError, match="the VMM could not run the machine") as caught:
        start(store, RunOptions(image="busybox", args=("true",), kernel=broken, auto_remove=True))
    assert caught.value.exit_status == 125
    assert State(store.machines).list() == before


def test_a_machine_of_many_layers_sees_them_all(store, boot):
    layers = [folder({b"layers": folder({b"%d" % number: file(b"%d\n" % number)})}) for number in range(60)]
    put_image(store, "many", busybox(), *layers)
    machine = boot("sh", "-c", "cat /layers/* | sort -n", image="many")
    assert machine.wait() == 0
    assert output(machine) == "".join(f"{number}\n" for number in range(60))
    assert sum(drive.readonly for drive in machine.settings.spec.drives) == 8
