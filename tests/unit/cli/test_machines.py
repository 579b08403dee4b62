"""`ps`, `port`, `rm` and `rmi` on machines that are recorded, and were never booted."""

import json
import subprocess
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from firekiln.machine.names import random_id
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.supervision.state import Record, State
from firekiln.machine.vmm.spec import BlockDevice, MachineSpec, Nic, PublishedPort
from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform
from firekiln.store import Store


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as made:
        image = Image(platform=Platform.parse("linux/amd64"), config=ImageConfig(cmd=("/bin/true",)))
        made.images.put(image, [], references=["web", "web:1"])
        yield made


@pytest.fixture
def firekiln(store):
    def command(*args):
        argv = [sys.executable, "-m", "firekiln", "--root", store.root, *args]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    return command


@pytest.fixture
def machine(store):
    """Record a machine: a function of its name and what is said of it. Those that run are held until the test's end."""
    state, locks = State(store.machines), []

    def make(name, *, status="running", auto_remove=False, labels="{}", image="web", held=True, **changes):
        port = PublishedPort(host_ip=IPv4Address("127.0.0.1"), host_port=8080, guest_port=80, protocol="tcp")
        spec = MachineSpec(
            name=name,
            architecture="amd64",
            kernel=Path("/kernel"),
            initramfs=Path("/initramfs"),
            drives=(BlockDevice(serial="layer0", path=Path("/layer"), readonly=True),),
            vcpus=1,
            memory=1 << 28,
            nics=(Nic(mac="52:54:00:00:00:01", ports=(port,)),),
        )
        settings = Settings(
            spec=spec, kernel_digest="sha256:0", stop_signal=15, stop_timeout=10.0, auto_remove=auto_remove
        )
        record = Record(
            id=random_id(),
            name=name,
            image=image,
            image_digest=store.images.get("web").digest,
            created_ns=time.time_ns(),
            settings=settings.encode(),
            config=f'{{"Cmd": ["/bin/true"], "Labels": {labels}}}',
        )
        made, lock = state.create(record)
        state.update(made.id, status=status, **changes)
        locks.append(lock)
        if not held or status != "running":
            lock.release()
        return made

    yield make
    for lock in locks:
        lock.release()


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ([], "two one"),
        (["-a"], "two three one"),
        (["-n", "1"], "two"),
        (["-l"], "two"),
        (["-f", "name=o"], "two one"),
        (["-f", "name=^one$"], "one"),
        (["-f", "name=^one$", "-f", "name=tw"], "two one"),
        (["-f", "status=exited"], "three"),
        (["-f", "exited=7"], "three"),
        (["-f", "exited=8"], ""),
        (["-f", "label=tier"], "one"),
        (["-f", "label=tier=front"], "one"),
        (["-f", "label=tier=back"], ""),
        (["-f", "ancestor=web"], "two one"),
        (["-f", "health=none"], "two one"),
        (["-f", "publish=8000-8080"], "two one"),
        (["-f", "publish=8080/udp"], ""),
        (["-f", "since=one", "-a"], "two three"),
        (["-f", "before=two"], "one"),
        (["-f", "ancestor=other"], ""),
    ],
)
def test_ps_shows_what_is_asked_for_in_the_form_that_is_asked_for(firekiln, machine, args, names):
    machine("one", labels='{"tier": "front"}')
    machine("three", status="exited", exit_status=7)
    machine("two")
    assert firekiln("ps", "--format", "{{.Names}}", *args).stdout.split() == names.split()


@pytest.mark.parametrize("text", ["colour=red", "name", "name=(", "publish=x"])
def test_a_filter_that_is_none_is_refused(firekiln, text):
    done = firekiln("ps", "-f", text)
    assert done.returncode == (1 if "invalid filter" in done.stderr else 125)
    assert done.stderr.startswith(f"firekiln: --filter {text}: ")


def test_port_tells_where_a_machine_answers(firekiln, machine):
    machine("one")
    assert firekiln("port", "one").stdout == "80/tcp -> 127.0.0.1:8080\n"
    assert firekiln("port", "one", "80").stdout == firekiln("port", "one", "80/tcp").stdout == "127.0.0.1:8080\n"
    done = firekiln("port", "one", "81")
    assert (done.returncode, done.stderr) == (1, "firekiln: no public port '81/tcp' published for one\n")


def test_removing_by_force_what_is_not_there_is_no_error_but_is_told(firekiln):
    for verb, name in (("rm", "container"), ("rmi", "image")):
        assert firekiln(verb, "nothing").returncode == 1
        done = firekiln(verb, "-f", "nothing")
        assert done.returncode == 0
        assert done.stderr.startswith(f"firekiln: No such {name}: nothing\n")


def test_the_last_name_of_an_image_that_a_machine_uses_is_removed_by_force_only(firekiln, machine, store):
    made = machine("one", status="exited")
    assert firekiln("rmi", "web:1").returncode == 0
    done = firekiln("rmi", "web")
    assert done.returncode == 1
    assert f"container {made.id[:12]} is using it" in done.stderr
    assert firekiln("rmi", store.images.get("web").digest).returncode == 1
    assert firekiln("rmi", "-f", "web").returncode == 0


def test_what_was_to_be_removed_at_its_end_is_gone_though_its_supervisor_was_killed(firekiln, machine, store):
    gone, kept = machine("gone", auto_remove=True, held=False), machine("kept", held=False)
    running = machine("running", auto_remove=True)
    store.leases.hold(f"machine-{gone.id}", [])
    assert firekiln("ps", "-a", "--format", "{{.Names}} {{.State}}").stdout == "running running\nkept exited\n"
    assert not (store.machines / gone.id).exists()
    assert (store.machines / kept.id).exists()
    assert (store.machines / running.id).exists()
    assert [*(store.root / "leases").iterdir()] == []


def test_inspect_shows_what_there_is_and_tells_what_there_is_not(firekiln):
    done = firekiln("inspect", "-f", "{{index .RepoTags 0}}", "web", "nothing")
    assert done.returncode == 1
    assert done.stdout.startswith("web:")
    assert done.stderr == "firekiln: No such object: nothing\n"


def test_ps_writes_commands_as_docker_does(firekiln, machine, store):
    made = machine("one")
    words = ["sh", "-c", 'echo "a b"; while :; do sleep 1; done\n\x1b[31m', "x"]
    State(store.machines).update(made.id, config=json.dumps({"Cmd": words}))
    shown = firekiln("ps", "--format", "{{.Command}}").stdout
    assert shown == '"sh -c \'echo \\"a b\\"; …"\n'
    whole = firekiln("ps", "--no-trunc", "--format", "{{.Command}}").stdout
    assert whole == '"sh -c \'echo \\"a b\\"; while :; do sleep 1; done\\n\\x1b[31m\' x"\n'
    (row,) = map(json.loads, firekiln("ps", "--format", "json").stdout.splitlines())
    wanted = "Command CreatedAt ID Image Labels LocalVolumes Mounts Names Networks Ports RunningFor Size State Status"
    assert set(row) == set(wanted.split())
    heading, line = firekiln("ps").stdout.splitlines()
    assert heading.index("IMAGE") == 15
    assert heading.index("COMMAND") - heading.index("IMAGE") == 10  # no column is narrower
    assert line.endswith("   one")


def test_inspect_tells_what_a_machine_takes_where_it_is_asked(firekiln, machine, store, tmp_path):
    machine("one", status="exited")
    assert firekiln("inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", "one").stdout == "0 0\n"
    assert "SizeRw" not in firekiln("inspect", "one").stdout
    shown = firekiln("inspect", "-f", "{{json .HostConfig.LogConfig}}", "one").stdout
    assert json.loads(shown) == {"Type": "json-file", "Config": {}}


def test_a_new_name_has_to_be_new_and_a_name(firekiln, machine):
    machine("one")
    same = firekiln("rename", "one", "one")
    assert (same.returncode, "same name as its current name" in same.stderr) == (1, True)
    assert firekiln("rename", "one", "a b").returncode == 1
    assert firekiln("rename", "one", "other").returncode == 0
    assert firekiln("kill", "-s", "NOSUCH", "other").returncode == 1
    assert firekiln("stop", "-s", "NOSUCH", "other").returncode == 1


def test_a_log_that_is_not_kept_cannot_be_read(firekiln, machine, store):
    made = machine("one", status="exited")
    settings = json.loads(made.settings) | {"log": {"driver": "none", "options": {}}}
    State(store.machines).update(made.id, settings=json.dumps(settings))
    done = firekiln("logs", "one")
    assert (done.returncode, "logging driver does not support reading" in done.stderr) == (1, True)


def test_machines_are_pruned_by_label(firekiln, machine):
    machine("kept", status="exited", labels='{"keep": "yes"}')
    machine("gone", status="exited")
    machine("runs")
    names = ("ps", "-a", "--format", "{{.Names}}")
    assert firekiln("container", "prune", "-f", "--filter", "label=nosuch").returncode == 0
    assert len(firekiln(*names).stdout.split()) == 3
    assert firekiln("container", "prune", "-f", "--filter", "label!=keep=yes").returncode == 0
    assert sorted(firekiln(*names).stdout.split()) == ["kept", "runs"]
    assert firekiln("container", "prune", "-f", "--filter", "label=keep", "--filter", "label!=keep").returncode == 0
    assert firekiln("container", "prune", "-f", "--filter", "until=1s", "--filter", "label=keep=no").returncode == 0
    assert sorted(firekiln(*names).stdout.split()) == ["kept", "runs"]
    assert firekiln("container", "prune", "-f", "--filter", "colour=red").returncode == 125
    assert firekiln("container", "prune", "-f", "--filter", "label=keep").returncode == 0
    assert firekiln(*names).stdout.split() == ["runs"]
