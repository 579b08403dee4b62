"""What the kernel makes of our images, and what we make of what the kernel leaves behind."""

import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from firekiln.rootfs import directory, erofs
from firekiln.rootfs.compare import differences
from firekiln.rootfs.merge import merge
from firekiln.rootfs.tree import Device, Directory, File, Meta, Whiteout
from firekiln.sandbox import syscalls
from trees import CAPABILITY, file, folder, link, sparse, trees

pytestmark = pytest.mark.root

kernel = settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.generate],  # each try costs mounts: a failure is not shrunk
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def mounted(kind, source, options, path):
    """A mount in place, gone at the end; the loop device too, where `mount` made one."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, "-o", options, source, path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@contextmanager
def seen_by_the_kernel(image, path):
    """An EROFS image as a Tree read through the kernel. The whiteouts in it are found, as in an upper side."""
    with (
        mounted("erofs", image, "ro,loop", path),
        directory.opened_upper(path, user_xattrs=False) as tree,
    ):
        yield tree


@pytest.fixture
def memory(tmp_path):
    """A tmpfs: images are written often here."""
    with mounted("tmpfs", "tmpfs", "size=1g", tmp_path / "memory") as path:
        yield path


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(kernel, max_examples=1000)
@given(trees())
def test_the_kernel_sees_every_node_of_many_trees_without_a_loop_device(tmp_path, tree):
    """Not on a tmpfs, whose files the kernel does not mount."""
    image, place = str(tmp_path / "image"), tmp_path / "mnt"
    erofs.write(tree, image)
    done = subprocess.run(["fsck.erofs", image], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    place.mkdir(exist_ok=True)
    try:
        syscalls.mount(image, str(place), "erofs", syscalls.MS_RDONLY)
    except OSError as error:
        pytest.skip(f"this kernel mounts no EROFS file without a loop device ({error})")
    try:
        with directory.opened_upper(place, user_xattrs=False) as seen:
            assert list(differences(tree, seen)) == []
    finally:
        syscalls.umount2(str(place))


@kernel
@given(trees())
def test_the_kernel_sees_every_node_as_it_was_in_the_tree(memory, tree):
    erofs.write(tree, memory / "image")
    with seen_by_the_kernel(memory / "image", memory / "mnt") as seen:
        assert list(differences(tree, seen)) == []


def test_the_kernel_sees_what_lies_at_the_limits(memory):
    big = Meta(mode=0o644, xattrs=((b"security.capability", CAPABILITY), (b"user.a", b"v" * 60_000)))
    shared = file(b"x" * 5000)
    tree = folder(
        {
            **{b"f%d" % size: file(b"z" * size) for size in (0, 1, 4095, 4096, 4097, 5_000_000)},
            b"n" * 255: link(b"t" * 4095),
            b"many": folder({b"%d" % number: shared for number in range(65_000)}),
            b"x": File.of(b"1", big),
            b"dx": Directory(meta=big, children={b"a": file()}),
            b"s": sparse(20 << 30, {0: b"head", 7 << 30: b"middle", (20 << 30) - 4: b"tail"}),
            b"null": Device(meta=Meta(mode=0o666), block=False, major=1, minor=3),
            b"disk": Device(meta=Meta(mode=0o600), block=True, major=4095, minor=(1 << 20) - 1),
        }
    )
    erofs.write(tree, memory / "image")
    with mounted("erofs", memory / "image", "ro,loop", memory / "mnt") as mount:
        assert (mount / "many" / "7").stat().st_nlink == 65_000
        with (mount / "s").open("rb") as stream:
            for position, data in ((0, b"head"), (7 << 30, b"middle"), (9 << 30, bytes(6)), ((20 << 30) - 4, b"tail")):
                stream.seek(position)
                assert stream.read(len(data)) == data
        tree.children.pop(b"s")  # its content was looked at: comparing 20 GB of zeros would take a minute
        with directory.opened_upper(mount, user_xattrs=False) as seen:
            seen.children.pop(b"s")
            assert list(differences(tree, seen)) == []


@kernel
@given(trees(), trees())
def test_overlayfs_shows_two_layers_as_merge_does(memory, lower, upper):
    lower = merge([lower])
    drop_needless_whiteouts(upper, lower)
    for name, tree in (("lower", lower), ("upper", upper)):
        erofs.write(tree, memory / name)
    layers = f"lowerdir={memory}/mnt-upper:{memory}/mnt-lower"
    with (
        mounted("erofs", memory / "lower", "ro,loop", memory / "mnt-lower"),
        mounted("erofs", memory / "upper", "ro,loop", memory / "mnt-upper"),
        mounted("overlay", "overlay", f"ro,{layers}", memory / "merged") as mount,
        directory.opened_upper(mount, user_xattrs=False) as seen,
    ):
        assert list(differences(merge([lower, upper]), seen)) == []


def drop_needless_whiteouts(upper, lower):
    """A directory that only one layer has is listed by overlayfs with its whiteouts, which then lead to nothing."""
    for name, node in list(upper.children.items()):
        if isinstance(node, Whiteout) and (upper.opaque or not isinstance(lower, Directory)):
            del upper.children[name]
        elif isinstance(node, Directory):
            below = lower.children.get(name) if isinstance(lower, Directory) and not upper.opaque else None
            drop_needless_whiteouts(node, below)


def test_the_upper_side_of_an_overlay_is_read_as_what_was_changed(memory):
    lower = folder({b"d": folder({b"old": file(b"1")}), b"gone": file(b"2"), b"kept": file(b"3"), b"e": folder()})
    erofs.write(lower, memory / "image")
    for name in ("upper", "work"):
        (memory / name).mkdir()
    options = f"lowerdir={memory}/lower,upperdir={memory}/upper,workdir={memory}/work,volatile"
    options += ",redirect_dir=off,metacopy=off,index=off"
    with (
        mounted("erofs", memory / "image", "ro,loop", memory / "lower"),
        mounted("overlay", "overlay", options, memory / "merged") as mount,
    ):
        (mount / "gone").unlink()
        shutil.rmtree(mount / "d")
        (mount / "d").mkdir()
        (mount / "d" / "new").write_bytes(b"4")
        (mount / "d" / "again").hardlink_to(mount / "d" / "new")
        (mount / "e" / "x").write_bytes(b"5")
        os.setxattr(mount / "e" / "x", "security.capability", CAPABILITY)
        os.chown(mount / "kept", 7, 8)
        with directory.opened_upper(memory / "upper", user_xattrs=False) as diff:
            assert isinstance(diff.children[b"gone"], Whiteout)
            assert diff.children[b"d"].opaque
            assert diff.children[b"d"].children[b"new"] is diff.children[b"d"].children[b"again"]
            assert not diff.children[b"e"].opaque
            assert diff.children[b"e"].children[b"x"].meta.xattrs[0][0] == b"security.capability"
            assert diff.children[b"kept"].read() == b"3"
            with directory.opened_upper(mount, user_xattrs=False) as seen:
                assert list(differences(merge([lower, diff]), seen)) == []
            erofs.write(diff, memory / "layer")
            assert list(differences(diff, erofs.read(memory / "layer"))) == []
