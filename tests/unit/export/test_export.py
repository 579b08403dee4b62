"""Exports of an image of two layers, read back by our own readers and by other people's programs."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile

import pytest

from exporting import write
from firekiln.errors import ExportError, MissingProgramError, RootfsError, UsageError
from firekiln.machine.kernel import kernels
from firekiln.rootfs import cpio, directory, erofs, ext4, tar
from firekiln.rootfs.compare import differences
from firekiln.rootfs.lookup import get
from firekiln.rootfs.tree import Directory
from machines import put_image
from trees import file, folder

FORMATS = ("ext4", "erofs", "squashfs", "cpio", "qcow2", "tar", "oci")
PROGRAMS = {"squashfs": "mksquashfs", "qcow2": "qemu-img"}


def without_ours(tree):
    """An exported root, without what makes it boot."""
    children = dict(tree.children)
    for name in (b".firekiln", b"lost+found"):
        children.pop(name, None)
    return Directory(meta=tree.meta, children=children)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_image_gives_the_same_bytes_in_every_format(store, image, tmp_path, kind):
    if not shutil.which(PROGRAMS.get(kind, "true")):
        pytest.skip(f"needs {PROGRAMS[kind]}")
    first, second = tmp_path / "a" / "x", tmp_path / "b" / "x"
    for path in (first, second):
        path.parent.mkdir()
        write(store, image, f"type={kind},dest={path}")
    assert first.read_bytes() == second.read_bytes()
    assert not list(tmp_path.rglob(".x*"))


@pytest.mark.parametrize("module", [ext4, erofs], ids=["ext4", "erofs"])
def test_what_does_not_boot_is_the_merged_tree_and_nothing_else(store, image, merged, tmp_path, module):
    done = write(store, image, f"type={module.__name__.rpartition('.')[2]},dest={tmp_path}/x,boot=false")
    assert [path.name for path in done.beside] == ["x.config.json"]
    assert not list(differences(without_ours(module.read(tmp_path / "x")), merged))


@pytest.mark.parametrize(("kind", "read"), [("ext4", ext4.read), ("erofs", erofs.read), ("cpio", cpio.read)])
def test_a_flat_image_carries_pid_1_and_the_machine_document(store, image, tmp_path, kind, read):
    write(store, image, f"type={kind},dest={tmp_path}/x")
    tree = read(tmp_path / "x")
    assert get(tree, b".firekiln/init").read().startswith(b"\x7fELF")
    document = json.loads(get(tree, b".firekiln/machine.json").read())
    assert document["process"]["argv"] == ["/bin/app", "a b"]
    assert "A=1" in document["process"]["env"]
    assert document["process"]["user"] == "7"
    assert (document["root"], document["channel"]) == ({"flat": True}, {"type": "console"})
    assert document["hostname"] == image.digest.removeprefix("sha256:")[:12]
    assert get(tree, b"etc/gone") is None


def test_beside_a_flat_image_lies_all_that_boots_it(store, image, tmp_path):
    done = write(store, image, f"type=erofs,dest={tmp_path}/x")
    assert sorted(path.name for path in done.beside) == [
        "x.cmdline",
        "x.config.json",
        "x.firecracker.json",
        "x.initrd",
    ]
    assert json.loads((tmp_path / "x.config.json").read_text()) == image.image.to_json()
    config = json.loads((tmp_path / "x.firecracker.json").read_text())
    assert config["boot-source"]["kernel_image_path"] == str(kernels(store.root)[0].image)
    assert config["boot-source"]["initrd_path"] == str(tmp_path / "x.initrd")
    initrd = cpio.read(tmp_path / "x.initrd")
    assert get(initrd, b"firekiln/modules.list").read() == b"virtio_mmio.ko\nvirtio_blk.ko\nerofs.ko\noverlay.ko\n"
    assert (tmp_path / "x.cmdline").read_text().endswith("rootfstype=erofs\n")


def test_a_kernel_that_has_all_built_in_needs_no_initrd_and_an_old_one_goes(store, image, tmp_path):
    write(store, image, f"type=ext4,dest={tmp_path}/x")
    assert (tmp_path / "x.initrd").exists()
    (tmp_path / "kernel").write_bytes(b"\x7fELF own")
    write(store, image, f"type=ext4,dest={tmp_path}/x", kernel=tmp_path / "kernel")
    assert not (tmp_path / "x.initrd").exists()
    config = json.loads((tmp_path / "x.firecracker.json").read_text())
    assert config["boot-source"]["kernel_image_path"] == str(tmp_path / "kernel")
    assert "initrd_path" not in config["boot-source"]


def test_an_image_with_an_init_of_its_own_is_booted_by_naming_ours(store, tmp_path):
    image = put_image(store, "systemd", folder({b"sbin": folder({b"init": file(b"its own")})}), cmd=("/x",))
    write(store, image, f"type=ext4,dest={tmp_path}/x")
    assert (tmp_path / "x.cmdline").read_text().endswith(" init=/.firekiln/init\n")
    assert get(ext4.read(tmp_path / "x"), b"sbin/init").read() == b"its own"


def test_an_image_without_command_is_only_data(store, tmp_path):
    image = put_image(store, "data", folder({b"f": file(b"x")}))
    with pytest.raises(UsageError, match="no command specified") as error:
        write(store, image, f"type=ext4,dest={tmp_path}/x")
    assert "boot=false" in error.value.hint
    assert not list(tmp_path.glob("*x*"))
    write(store, image, f"type=ext4,dest={tmp_path}/x,boot=false")


def test_a_tar_is_the_flat_root(store, image, merged, tmp_path):
    write(store, image, f"type=tar,dest={tmp_path}/x")
    assert "sha256:" + hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest() == tar.digest(merged)
    write(store, image, f"type=tar,dest={tmp_path}/z,compression=gzip")
    assert gzip.decompress((tmp_path / "z").read_bytes()) == (tmp_path / "x").read_bytes()


@pytest.mark.parametrize("compression", ["gzip", "zstd", "uncompressed"])
def test_an_oci_archive_is_whole_and_its_diff_ids_are_those_of_the_tars(store, image, tmp_path, compression):
    write(store, image, f"type=oci,dest={tmp_path}/x,compression={compression}")
    with tarfile.open(tmp_path / "x") as archive:
        contents = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}
    for name, data in contents.items():
        if name.startswith("blobs/"):
            assert name == "blobs/sha256/" + hashlib.sha256(data).hexdigest()
    assert json.loads(contents["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(contents["index.json"])["manifests"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "1"
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/library/app:1"

    def blob(descriptor):
        data = contents["blobs/" + descriptor["digest"].replace(":", "/")]
        assert len(data) == descriptor["size"]
        return data

    manifest = json.loads(blob(entry))
    config = json.loads(blob(manifest["config"]))
    assert config["config"] == image.image.config.to_json()
    assert config["rootfs"]["diff_ids"] == [tar.digest(store.layers.tree(layer)) for layer in image.layers]
    assert [store.layers.diff_id(layer) for layer in image.layers] == config["rootfs"]["diff_ids"]
    suffix = {"gzip": "+gzip", "zstd": "+zstd"}.get(compression, "")
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar" + suffix
        if suffix != "+zstd":
            plain = gzip.decompress(blob(layer)) if suffix else blob(layer)
            assert diff_id == "sha256:" + hashlib.sha256(plain).hexdigest()


@pytest.mark.skipif(os.geteuid() == 0, reason="root's folders keep owners")
def test_a_folder_of_an_ordinary_user_belongs_to_that_user(store, image, tmp_path):
    said = []
    write(store, image, f"{tmp_path}/out", notice=said.append)
    assert (tmp_path / "out/data/a").read_bytes() == b"the same"
    assert any("only root" in line for line in said)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for owners")
def test_a_folder_is_the_merged_tree(store, image, merged, tmp_path):
    write(store, image, f"{tmp_path}/deeper/out")
    assert not list(differences(directory.read(tmp_path / "deeper/out", xattrs=True), merged))


def test_a_folder_that_holds_something_is_left_alone(store, image, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ExportError, match="not empty"):
        write(store, image, f"{tmp_path}/out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    (tmp_path / "out" / "mine").unlink()
    write(store, image, f"{tmp_path}/out")
    assert (tmp_path / "out" / "etc").is_dir()
    assert [path.name for path in tmp_path.glob(".out*")] == []


def test_a_file_is_replaced_and_a_link_to_it_followed(store, image, tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "x").symlink_to("real")
    write(store, image, f"type=erofs,dest={tmp_path}/x,boot=false")
    assert (tmp_path / "x").is_symlink()
    assert (tmp_path / "real").stat().st_size > 4096


@pytest.mark.parametrize("kind", ["folder", "device", "nowhere"])
def test_what_is_no_file_is_not_replaced(store, image, tmp_path, kind):
    dest = {"folder": tmp_path, "device": "/dev/null", "nowhere": tmp_path / "no" / "such"}[kind]
    with pytest.raises(ExportError, match="cannot write"):
        write(store, image, f"type=ext4,dest={dest},boot=false")


def test_a_failed_export_leaves_what_was_there(store, image, tmp_path):
    (tmp_path / "x").write_text("old")
    (tmp_path / "x.cmdline").write_text("old words")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RootfsError):
        write(store, image, f"type=ext4,dest={tmp_path}/x,size=300K")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "x").read_text() == "old"
    assert (tmp_path / "x.cmdline").read_text() == "old words"


def test_a_program_that_is_absent_is_named_with_its_package(store, image, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgramError, match="mksquashfs") as error:
        write(store, image, f"type=squashfs,dest={tmp_path}/x,boot=false")
    assert "squashfs-tools" in error.value.hint
    assert not list(tmp_path.glob("*x*"))


@pytest.mark.skipif(not shutil.which("unsquashfs"), reason="needs squashfs-tools")
def test_the_root_of_a_squashfs_is_the_images(store, tmp_path):
    root = folder({b"f": file(b"x", uid=7, gid=9)}, mode=0o1711)
    root = Directory(meta=type(root.meta)(mode=0o1711, uid=7, gid=9, mtime_ns=86400 * 10**9), children=root.children)
    image = put_image(store, "sq", root)
    write(store, image, f"type=squashfs,dest={tmp_path}/x,boot=false")
    listed = subprocess.run(
        ["unsquashfs", "-lln", tmp_path / "x"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TZ": "UTC"},
    ).stdout
    assert listed.splitlines()[0].split()[:4] == ["drwx--x--t", "7/9", "24", "1970-01-02"]
