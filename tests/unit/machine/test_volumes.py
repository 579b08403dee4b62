import json
import os
import subprocess
import sys

import pytest

from ext4images import e2fsck
from firekiln.errors import ConflictError, UsageError
from firekiln.machine.guest.contract import DriveMount, FileMount, SharedMount, TmpfsMount
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.supervision.state import Record, State
from firekiln.machine.vmm.spec import MachineSpec
from firekiln.machine.volumes.attachments import attach
from firekiln.machine.volumes.drives import CONTENT, VolumeNotFoundError, Volumes
from firekiln.machine.volumes.lock import held
from firekiln.machine.volumes.mountpoint import MountPoint, volumes_used
from firekiln.machine.volumes.mountspec import parse_mount, parse_tmpfs, parse_volume
from firekiln.machine.volumes.use import prune_volumes, remove_volume, volume_uses
from firekiln.rootfs import ext4
from firekiln.rootfs.lookup import get
from firekiln.rootfs.tree import Directory, Meta
from firekiln.store import Store, gc
from trees import file, folder, link


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as made:
        yield made


def content(volume):
    return ext4.read(volume.drive).children[CONTENT.encode()]


def machine(store, *points):
    """A machine that is put down as having these mounts."""
    spec = MachineSpec(name="m", architecture="amd64", kernel=store.root, initramfs=store.root, drives=())
    settings = Settings(spec=spec, kernel_digest="", stop_signal=15, stop_timeout=1.0, mounts=points)
    record = Record(
        id=os.urandom(32).hex(),
        name="",
        image="i",
        image_digest="",
        created_ns=1,
        settings=settings.encode(),
        config="",
    )
    made, lock = State(store.machines).create(record)
    lock.release()
    return made


IMAGE = folder(
    {
        b"data": Directory(
            meta=Meta(mode=0o2750, uid=33, gid=44), children={b"a": file(b"hello", uid=7), b"l": link(b"a")}
        ),
        b"var": folder({b"run": link(b"/run")}),
        b"run": folder({b"pid": file(b"1")}),
        b"file": file(b"x"),
    }
)


def prepared(store, tmp_path, *texts, can_share=False, image=IMAGE, with_remarks=False):
    specs = [parse_mount(text) if "=" in text else parse_volume(text) for text in texts]
    (tmp_path / "machine").mkdir(exist_ok=True)
    remarks = []
    made = attach(store, specs, tmp_path / "machine", can_share=can_share, progress=remarks.append)
    made.prepare(store, image)
    return made if not with_remarks else (made, remarks)


def test_a_volume_gets_what_the_image_has_at_its_place_and_keeps_what_was_put_there(store, tmp_path):
    made = prepared(store, tmp_path, "data:/data")
    (mount,) = made.mounts
    assert isinstance(mount, DriveMount)
    assert (mount.target, mount.subpath, mount.drive.serial, mount.read_only) == ("/data", CONTENT, "volume0", False)
    volume = Volumes(store).get("data")
    found = content(volume)
    assert (found.meta.mode, found.meta.uid, found.meta.gid) == (0o2750, 33, 44)
    assert found.children[b"a"].read() == b"hello"
    assert found.children[b"a"].meta.uid == 7
    assert volume.drive.stat().st_size == volume.size == 10 << 30
    assert volume.used < 32 << 20
    before = volume.drive.stat().st_ino
    prepared(store, tmp_path, "data:/run")
    assert volume.drive.stat().st_ino == before


def test_a_volume_that_nothing_was_put_on_gets_the_next_image_s_content(store, tmp_path):
    prepared(store, tmp_path, "data:/nothing/there")
    assert content(Volumes(store).get("data")).children == {}
    prepared(store, tmp_path, "data:/var/run")
    assert content(Volumes(store).get("data")).children[b"pid"].read() == b"1"


def test_a_volume_is_left_empty_where_that_is_asked_for(store, tmp_path):
    prepared(store, tmp_path, "type=volume,source=data,target=/data,volume-nocopy")
    assert content(Volumes(store).get("data")).children == {}


def test_a_volume_does_not_take_the_place_of_a_file(store, tmp_path):
    with pytest.raises(UsageError, match="/file"):
        prepared(store, tmp_path, "data:/file")


def test_two_places_of_one_volume_share_its_drive(store, tmp_path):
    made = prepared(store, tmp_path, "data:/a", "data:/b", "other:/c")
    assert [drive.serial for drive in made.drives] == ["volume0", "volume1"]
    assert [mount.drive.serial for mount in made.mounts] == ["volume0", "volume0", "volume1"]
    with pytest.raises(UsageError, match="both read-only and writable"):
        prepared(store, tmp_path, "data:/a", "data:/b:ro")


def test_a_volume_is_one_machine_s_at_a_time_unless_all_only_read(store, tmp_path):
    prepared(store, tmp_path, "data:/a")
    with held(store.root, {"data": False}):
        with pytest.raises(ConflictError, match="in use by another running machine"):
            attach(store, [parse_volume("data:/a:ro")], tmp_path, can_share=False)
        with pytest.raises(ConflictError, match="in use"):
            remove_volume(store, "data")
    with held(store.root, {"data": True}), held(store.root, {"data": True}):
        attach(store, [parse_volume("data:/a:ro")], tmp_path, can_share=False)
        with pytest.raises(ConflictError, match="in use"), held(store.root, {"data": False}):
            pass
    with held(store.root, {"data": False}):
        pass


def test_a_volume_is_free_when_its_holder_was_killed(store, tmp_path):
    prepared(store, tmp_path, "data:/a")
    code = f"""
import pathlib, time
from firekiln.machine.volumes.lock import held
with held(pathlib.Path({str(store.root)!r}), {{"data": False}}):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ConflictError), held(store.root, {"data": False}):
            pass
        process.kill()
    with held(store.root, {"data": False}):
        pass


def test_anonymous_volumes_go_with_a_machine_that_came_to_nothing(store, tmp_path):
    made = attach(store, [parse_volume("/data"), parse_volume("named:/b")], tmp_path, can_share=False)
    assert len(Volumes(store).list()) == 2
    made.discard(store)
    assert [volume.name for volume in Volumes(store).list()] == ["named"]
    with pytest.raises(UsageError):
        attach(store, [parse_volume("/data"), parse_volume("/dev/null:/b")], tmp_path, can_share=False)
    assert [volume.name for volume in Volumes(store).list()] == ["named"]


def test_volumes_have_sizes_and_labels_and_keep_them(store):
    volumes = Volumes(store)
    made = volumes.create("data", labels={"a": "b"}, options={"size": "64m"})
    assert volumes.create("data", options={"size": "1g"}) == made == volumes.get("data")
    assert (made.size, dict(made.labels), made.is_anonymous, made.used) == (64 << 20, {"a": "b"}, False, 0)
    volumes.fill(made, IMAGE)
    assert made.drive.stat().st_size == 64 << 20
    e2fsck(made.drive)


@pytest.mark.parametrize("name", ["a", "../x", "", ".x", "a/b", "-x"])
def test_names_that_docker_refuses_are_refused(store, name):
    with pytest.raises(UsageError):
        Volumes(store).create(name)
    with pytest.raises(VolumeNotFoundError):
        Volumes(store).get(name)


@pytest.mark.parametrize("options", [{"size": "lots"}, {"size": "1k"}, {"type": "nfs"}])
def test_options_that_mean_nothing_are_refused(store, options):
    with pytest.raises(UsageError):
        Volumes(store).create("data", options=options)


def test_a_volume_that_a_machine_has_is_neither_removed_nor_collected(store):
    volume = Volumes(store).create("data")
    Volumes(store).create("idle")
    record = machine(store, MountPoint(kind="volume", target="/d", name="data", read_only=True))
    assert [(use.volume.name, use.machines) for use in volume_uses(store)] == [("data", (record.id,)), ("idle", ())]
    with pytest.raises(ConflictError, match="volume is in use"):
        remove_volume(store, "data", force=True)
    gc.collect(store)
    assert prune_volumes(store, wanted=lambda _: True) == [("idle", 0)]
    State(store.machines).remove(record.id)
    remove_volume(store, "data")
    assert not volume.folder.exists()
    with pytest.raises(VolumeNotFoundError):
        remove_volume(store, "data")
    remove_volume(store, "data", force=True)


def test_a_folder_of_the_host_is_shared_where_the_kernel_can(store, tmp_path):
    made, remarks = prepared(store, tmp_path, f"{tmp_path}:/src:ro", can_share=True, with_remarks=True)
    assert [(share.tag, share.path, share.readonly) for share in made.shares] == [("share0", tmp_path, True)]
    assert made.mounts == [SharedMount(target="/src", type="9p", tag="share0", read_only=True)]
    assert (made.drives, remarks) == ([], [])


def test_a_folder_of_the_host_is_copied_where_it_cannot_be_shared_and_the_user_is_told(store, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "page").write_text("hello")
    (source / "page").chmod(0o640)
    (source / "big").write_bytes(b"x" * 100_000)
    wanted = (f"{source}:/src", f"{source}:/again:ro", f"{source}/big:/big", f"{source}/big:/b:ro")
    made, remarks = prepared(store, tmp_path, *wanted, with_remarks=True)
    assert [(mount.drive.serial, mount.subpath) for mount in made.mounts] == [
        ("copies-rw", "0"),
        ("copies-ro", "0"),
        ("copies-rw", "1"),
        ("copies-ro", "1"),
    ]
    assert sorted(drive.serial for drive in made.drives) == ["copies-ro", "copies-rw"]
    for drive in made.drives:
        tree = ext4.read(drive.path)
        assert get(tree, b"0/page").read() == b"hello"
        assert get(tree, b"0/page").meta.mode == 0o640
        assert get(tree, b"1").size == 100_000
        assert drive.path.stat().st_size > (1 << 30 if not drive.readonly else 0)
    assert len(remarks) == 2
    assert all("copied" in remark for remark in remarks)


def test_a_small_file_rides_in_the_document(store, tmp_path):
    path = tmp_path / "my.conf"
    path.write_bytes(b"a=b\n")
    path.chmod(0o600)
    if os.geteuid() == 0:
        made = prepared(store, tmp_path, f"{path}:/etc/my.conf")
        assert made.mounts == [FileMount(target="/etc/my.conf", data=b"a=b\n", mode=0o600)]
        os.chown(path, 33, 33)
    made = prepared(store, tmp_path, f"{path}:/etc/my.conf")
    assert isinstance(made.mounts[0], DriveMount)


def test_v_makes_a_missing_folder_and_mount_does_not(store, tmp_path):
    prepared(store, tmp_path, f"{tmp_path}/new/folder:/x")
    assert (tmp_path / "new/folder").is_dir()
    with pytest.raises(UsageError, match="bind source path does not exist"):
        prepared(store, tmp_path, f"type=bind,source={tmp_path}/absent,target=/x")


@pytest.mark.parametrize("source", ["/dev/null", "/"])
def test_what_no_drive_can_hold_is_refused(store, tmp_path, source):
    with pytest.raises(UsageError):
        prepared(store, tmp_path, f"{source}:/x")


def test_a_tmpfs_needs_nothing(store, tmp_path):
    made = attach(store, [parse_tmpfs("/run:size=1m,mode=755")], tmp_path, can_share=False)
    assert made.mounts == [TmpfsMount(target="/run", size=1 << 20, mode=0o755, options=("noexec", "nosuid", "nodev"))]
    assert made.points[0].inspected() == {
        "Type": "tmpfs",
        "Source": "",
        "Destination": "/run",
        "Mode": "",
        "RW": True,
        "Propagation": "",
    }


def test_mounts_are_kept_with_a_machine():
    point = MountPoint(kind="volume", target="/d", name="data", source="/s/data", read_only=True)
    assert MountPoint.from_json(json.loads(json.dumps(point.to_json()))) == point
    assert volumes_used([point]) == {"data": True}
    assert volumes_used([point, MountPoint(kind="volume", target="/e", name="data")]) == {"data": False}
    assert point.inspected()["Name"] == "data"
