"""The jail that Firecracker's jailer is given, and what runs in it; jailer and Firecracker are stand-ins."""

import os
import select
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import isolation
from firecrackers import first_words, programs
from firekiln.errors import MachineError
from firekiln.machine.vmm.firecracker.jailer import Jail, Placed, jailed, jailer_argv, make_tree, remove_tree, user_of
from firekiln.machine.vmm.firecracker.vmm import Firecracker, Jailing
from firekiln.machine.vmm.spec import MIB, BlockDevice, MachineSpec

pytestmark = [pytest.mark.root, isolation.needs_root]
ID = "0123456789abcdef"


@pytest.fixture
def folder(tmp_path):
    """A folder below folders that are root's own; /tmp itself everybody may write to, but sticky."""
    made = tmp_path / "store"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def spec(folder):
    for name in ("vmlinux", "layer"):
        (folder / name).write_bytes(name.encode())
    for name in ("initramfs", "scratch"):
        (folder / name).write_bytes(name.encode())
        (folder / name).chmod(0o600)
    return MachineSpec(
        name="0123456789ab",
        architecture="amd64",
        kernel=folder / "vmlinux",
        initramfs=folder / "initramfs",
        drives=(
            BlockDevice(serial="layer0", path=folder / "layer", readonly=True),
            BlockDevice(serial="scratch", path=folder / "scratch", readonly=False),
        ),
        memory=512 * MIB,
    )


@pytest.fixture
def jail(folder):
    uid = user_of(ID)
    return Jail(id=ID, base=folder / "jail", executable=Path("/usr/bin/firecracker"), uid=uid, gid=uid)


def test_a_jail_holds_links_that_only_its_user_can_write_to(spec, jail):
    inside, placed = jailed(spec)
    assert [str(drive.path) for drive in inside.drives] == ["/drive0", "/drive1"]
    make_tree(jail, placed)
    found = {path.name: path.stat() for path in jail.root.iterdir()}
    assert set(found) == {"kernel", "initramfs", "drive0", "drive1", "log"}
    assert found["drive0"].st_ino == spec.drives[0].path.stat().st_ino
    assert {name for name, status in found.items() if status.st_uid == jail.uid} == {"initramfs", "drive1", "log"}
    assert stat.S_ISFIFO(found["log"].st_mode)
    assert jail.root.stat().st_uid == jail.uid
    assert [path.stat().st_uid for path in (jail.root.parent, jail.base)] == [0, 0]
    remove_tree(jail)
    remove_tree(jail)
    assert not jail.root.parent.exists()
    assert spec.drives[1].path.read_bytes() == b"scratch"


@pytest.mark.parametrize("planted", ["jail", "jail/firecracker", f"jail/firecracker/{ID}"])
@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_is_planted_on_the_way_is_refused_and_what_it_points_to_untouched(spec, jail, folder, planted, kind):
    victim = folder / "victim"
    victim.mkdir()
    path = folder / planted
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        path.symlink_to(victim)
    else:
        path.mkdir()
        os.chown(path, 1000, 1000)
    with pytest.raises(MachineError, match=r"no folder but a link|could plant links"):
        make_tree(jail, jailed(spec)[1])
    assert not list(victim.iterdir())
    assert spec.drives[1].path.stat().st_uid == 0


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_a_way_that_others_may_write_to_is_refused(spec, jail, folder, mode):
    folder.chmod(mode)
    with pytest.raises(MachineError, match="another user could plant links"):
        make_tree(jail, jailed(spec)[1])


def test_only_regular_files_that_the_jails_user_can_read_are_given_to_it(spec, jail, folder):
    secret = folder / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    (folder / "link").symlink_to("/etc/shadow")
    for source, message in ((secret, "cannot be read by the jail's user"), (folder / "link", "no regular file")):
        with pytest.raises(MachineError, match=message):
            make_tree(jail, [Placed(name="kernel", source=source, owned=source.is_symlink())])
        assert source.lstat().st_uid == 0
        assert not jail.root.parent.exists()


def test_a_kernel_of_another_disk_is_copied_and_a_writable_drive_refused(spec, jail):
    other = Path("/dev/shm") / f"firekiln-jail-{os.getpid()}"
    other.write_bytes(b"elsewhere")
    try:
        if other.stat().st_dev == spec.kernel.stat().st_dev:
            pytest.skip("needs two disks")
        make_tree(jail, [Placed(name="kernel", source=other, owned=False)])
        assert (jail.root / "kernel").read_bytes() == b"elsewhere"
        remove_tree(jail)
        with pytest.raises(MachineError, match="lies on another disk"):
            make_tree(jail, [Placed(name="drive0", source=other, owned=True)])
    finally:
        other.unlink()
        remove_tree(jail)


def test_the_jailers_words_bound_memory_files_and_processes(spec, jail):
    words = jailer_argv(replace(jail, unified=True, netns=Path("/run/netns/a")), spec, ["--level", "Warning"])
    cut = words.index("--")
    assert words[:3] == ["jailer", "--id", ID]
    assert words[cut + 1 :] == ["--level", "Warning"]
    pairs = list(zip(words[1:cut:2], words[2:cut:2], strict=True))
    assert ("--exec-file", "/usr/bin/firecracker") in pairs
    assert ("--uid", str(jail.uid)) in pairs
    assert ("--netns", "/run/netns/a") in pairs
    assert ("--cgroup-version", "2") in pairs
    groups = dict(value.split("=") for option, value in pairs if option == "--cgroup")
    assert 512 * MIB < int(groups["memory.max"]) < 640 * MIB
    assert groups["pids.max"] == "64"
    assert "memory.limit_in_bytes" in " ".join(jailer_argv(replace(jail, unified=False), spec, []))
    assert "--cgroup" not in jailer_argv(jail, spec, [])
    with pytest.raises(MachineError, match="letters, digits and hyphens"):
        replace(jail, id="../../etc")


def test_users_differ_between_machines_and_are_nobody_elses():
    users = {user_of(f"{number:016x}") for number in range(500)}
    assert len(users) == 500
    assert all(0x70000000 <= uid < 0x7FFFFFFF for uid in users)


@pytest.fixture
def jailing(jail, tmp_path, monkeypatch):
    for name, value in programs(tmp_path).items():
        monkeypatch.setenv(name, value)
    return Jailing(jail=replace(jail, executable=tmp_path / "firecracker"))


def test_a_jailed_guest_runs_as_its_own_user_in_its_own_root_and_leaves_nothing(spec, folder, jailing):
    with Firecracker(folder=folder, jailing=jailing).launch(spec) as guest:
        said = first_words(guest)
        assert said["uid"] == jailing.jail.uid
        assert {"kernel", "drive0", "drive1", "api.sock", "vsock_1024"} <= set(said["cwd"])
        # What the taken over VMM could leave for us to fall into is not followed.
        (jailing.jail.root / "trap").symlink_to("/etc")
    assert guest.process.returncode is not None
    assert not jailing.jail.root.parent.exists()
    assert Path("/etc/passwd").exists()


def test_what_a_killed_supervisor_left_of_a_jail_gives_way(spec, folder, jailing):
    make_tree(jailing.jail, jailed(spec)[1])
    (jailing.jail.root / "drive0").unlink()
    (jailing.jail.root / "drive0").symlink_to(folder / "scratch")
    with Firecracker(folder=folder, jailing=jailing).launch(spec) as guest:
        assert first_words(guest)["uid"] == jailing.jail.uid
    assert (folder / "scratch").read_bytes() == b"scratch"


def test_a_jailed_guest_ends_when_its_supervisor_is_killed(spec, folder, jailing):
    script = f"""
import time
from pathlib import Path
from firekiln.machine.vmm.firecracker.jailer import Jail
from firekiln.machine.vmm.firecracker.vmm import Firecracker, Jailing
from firekiln.machine.vmm.spec import BlockDevice, MachineSpec
folder = Path({str(folder)!r})
jail = Jail(id={ID!r}, base=folder / "jail", executable=Path({str(jailing.jail.executable)!r}), uid=70000, gid=70000)
spec = MachineSpec(name="a", architecture="amd64", kernel=folder / "vmlinux", initramfs=folder / "initramfs", drives=())
with Firecracker(folder=folder, jailing=Jailing(jail=jail)).launch(spec) as guest:
    print(guest.process.pid, flush=True)
    time.sleep(60)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(supervisor.stdout.readline())
    supervisor.stdout.close()
    guest = os.pidfd_open(pid)
    try:
        supervisor.kill()
        supervisor.wait()
        assert select.select([guest], [], [], 5)[0], "the guest lives"
    finally:
        os.close(guest)
    shutil.rmtree(folder / "jail")
