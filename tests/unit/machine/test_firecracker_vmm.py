"""The back end around a stand-in for Firecracker, and the host's ends of a vsock."""

import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from firecrackers import first_words, programs
from firekiln.errors import MachineError, MissingProgramError
from firekiln.machine.vmm.firecracker import vsock
from firekiln.machine.vmm.firecracker.devices import Devices, Tap
from firekiln.machine.vmm.firecracker.version import check_version
from firekiln.machine.vmm.firecracker.vmm import Firecracker
from firekiln.machine.vmm.spec import BlockDevice, MachineSpec


@pytest.fixture
def standin(tmp_path, monkeypatch):
    for name, value in programs(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def spec(tmp_path):
    folder = tmp_path / "machine"
    folder.mkdir()
    for name in ("vmlinux", "initramfs", "layer", "scratch"):
        (folder / name).write_bytes(name.encode())
    return MachineSpec(
        name="0123456789ab",
        architecture="amd64",
        kernel=folder / "vmlinux",
        initramfs=folder / "initramfs",
        drives=(
            BlockDevice(serial="layer0", path=folder / "layer", readonly=True),
            BlockDevice(serial="scratch", path=folder / "scratch", readonly=False),
        ),
    )


def back_end(spec, **changes):
    return Firecracker(folder=spec.initramfs.parent, **changes)


def test_a_guest_starts_and_reaches_its_host_and_leaves_nothing_behind(standin, spec):
    made = back_end(spec)
    with made.launch(spec) as guest:
        assert first_words(guest)["uid"] == os.getuid()
        assert b"Linux version" in guest.console.readline()
        assert b"a word of the log" in guest.complaints.read(4096)
        pid = guest.process.pid
    assert guest.process.returncode is not None
    assert not Path(f"/proc/{pid}").exists()
    assert sorted(path.name for path in made.folder.iterdir()) == ["initramfs", "layer", "scratch", "vmlinux"]


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("die", r"ended before its API answered: \[fatal\] /dev/kvm: Permission denied"),
        ("deaf", r"API did not come up within 0\.3 s"),
    ],
)
def test_a_firecracker_that_does_not_come_up_is_told_in_its_own_words(standin, spec, monkeypatch, does, message):
    monkeypatch.setenv("STANDIN_DOES", does)
    with pytest.raises(MachineError, match=message):
        back_end(spec, timeout=0.3 if does == "deaf" else 10).launch(spec)
    assert not (spec.initramfs.parent / "firecracker").exists()


def test_what_firecracker_refuses_ends_the_start_and_the_process(standin, spec):
    tap = Tap(name="fk-1", mac="52:54:00:01:02:03", mtu=1)
    with pytest.raises(MachineError, match=r"refused PUT /network-interfaces/eth0 \(400\): .*mtu: 1 is out of range"):
        back_end(spec, devices=Devices(tap=tap)).launch(spec)
    assert not (spec.initramfs.parent / "firecracker").exists()


def test_an_absent_or_old_firecracker_is_named_with_where_to_get_one(standin, spec, monkeypatch):
    assert check_version("firecracker") == (1, 15, 1)
    assert check_version("jailer") == (1, 15, 1)
    assert back_end(spec).identity()
    monkeypatch.setenv("STANDIN_DOES", "odd")
    with pytest.raises(MachineError, match=r"firecracker 1\.14\.3 has known holes"):
        check_version("firecracker")
    monkeypatch.setenv("PATH", "/nowhere")
    for ask in (lambda: check_version("firecracker"), back_end(spec).identity, lambda: back_end(spec).launch(spec)):
        with pytest.raises(MissingProgramError, match="firecracker is not on this host") as caught:
            ask()
        assert "releases" in caught.value.hint


def test_a_killed_supervisor_takes_a_firecracker_that_changed_its_user_with_it(tmp_path):
    """The keeper's part, without a jail: the child forgets who its parent is, as after a change of user."""
    script = """
import subprocess, time
from firekiln.machine.vmm.firecracker.keeper import kept
child = subprocess.Popen(["sleep", "60"])
with kept(child.pid):
    print(child.pid, flush=True)
    time.sleep(60)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = int(supervisor.stdout.readline())
    watched = os.pidfd_open(child)
    try:
        supervisor.kill()
        supervisor.wait()
        assert select.select([watched], [], [], 5)[0], "the child lives"
    finally:
        os.close(watched)
        supervisor.stdout.close()
    family = subprocess.run(["ps", "-o", "pid=", "--ppid", str(supervisor.pid)], capture_output=True, check=False)
    assert not family.stdout.strip()


# --- vsock -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def firecracker_socket(tmp_path):
    """Firecracker's side of `PATH`: a function that answers one connection with given bytes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "vsock"))
    listener.listen()
    threads = []

    def answer(data, then=lambda _: None):
        def serve():
            stream, _ = listener.accept()
            with stream:
                asked = stream.makefile("rb").readline()
                assert asked == b"CONNECT 1025\n"
                stream.sendall(data)
                then(stream)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()

    yield answer
    for thread in threads:
        thread.join()
    listener.close()


def test_the_host_reaches_a_port_of_the_guest_and_eats_nothing_of_what_it_says(firecracker_socket, tmp_path):
    firecracker_socket(b"OK 1073741824\nhello\n")
    with vsock.connect(tmp_path, "vsock", 1025) as stream:
        assert stream.makefile("rb").read() == b"hello\n"


@pytest.mark.parametrize("data", [b"", b"OK", b"NO 5\n", b"OK \n", b"OK " + b"9" * 100 + b"\n"])
def test_another_answer_than_ok_is_no_connection(firecracker_socket, tmp_path, data):
    firecracker_socket(data)
    with pytest.raises(MachineError, match=r"nobody in the guest listens at port 1025|vsock is gone"):
        vsock.connect(tmp_path, "vsock", 1025)


def test_a_silent_firecracker_is_not_waited_for(firecracker_socket, tmp_path):
    release = threading.Event()
    firecracker_socket(b"", lambda _: release.wait(5))
    start = time.monotonic()
    with pytest.raises(MachineError, match=r"did not connect port 1025 of the guest within 0\.1 s"):
        vsock.connect(tmp_path, "vsock", 1025, timeout=0.1)
    release.set()
    assert time.monotonic() - start < 2
    with pytest.raises(MachineError, match="vsock is gone: no such file"):
        vsock.connect(tmp_path, "absent", 1)


def test_the_agents_socket_is_this_users_alone(tmp_path):
    with vsock.listen(tmp_path, "vsock", 1024) as listener:
        assert (tmp_path / "vsock_1024").stat().st_mode & 0o777 == 0o600
        assert not listener.getblocking()
        with pytest.raises(MachineError, match="no socket for the guest"):
            vsock.listen(tmp_path, "vsock", 1024)
