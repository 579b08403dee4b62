"""What the kernel makes of our ext4 images, and what we make of what the kernel leaves behind."""

import fcntl
import itertools
import os
import shutil
import struct
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from ext4images import e2fsck, needs_e2fsprogs, same
from firekiln.rootfs import directory, ext4
from firekiln.rootfs.compare import differences
from firekiln.rootfs.merge import merge
from firekiln.rootfs.tree import Device, Directory, File, Meta, walk
from trees import ACL, CAPABILITY, file, folder, link, sparse, trees

pytestmark = pytest.mark.root
MIB = 1 << 20

kernel = settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.generate],  # each try costs mounts: a failure is not shrunk
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def mounted(source, path, *, kind="ext4", options="loop"):
    """A mount in place, gone at the end; the loop device too, where `mount` made one."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, "-o", options, source, path], check=True)
    try:
        yield path
    finally:
        unmount(path)


def unmount(path):
    """A tmpfs is busy until the kernel's worker has let go of the loop device of an image on it."""
    source = subprocess.run(["findmnt", "-no", "SOURCE", path], capture_output=True, text=True, check=True).stdout
    if not waited_for(lambda: not subprocess.run(["umount", path], check=False, capture_output=True).returncode):
        subprocess.run(["umount", "--lazy", path], check=True)
    if source.startswith("/dev/loop"):
        lower = Path("/sys/block") / Path(source.strip()).name / "loop" / "backing_file"
        waited_for(lambda: not backed_by(lower, path.parent))  # until then it may still write to the image


def backed_by(attribute, folder_of_images):
    """Whether a loop device still has a file of this folder; another test's may have taken its number meanwhile."""
    try:
        return attribute.read_text().startswith(str(folder_of_images))
    except OSError:
        return False


def waited_for(condition):
    """Whether it came true; a copy of a mount in somebody else's namespace may hold a file or device for longer."""
    deadline = time.monotonic() + 10
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


@pytest.fixture
def memory(tmp_path):
    """A tmpfs: images are written often here."""
    with mounted("tmpfs", tmp_path / "memory", kind="tmpfs", options="size=1g") as path:
        yield path


numbers = itertools.count()


def check_what_the_kernel_sees(memory, tree):
    flat = merge([tree])
    image = memory / f"image-{next(numbers)}"  # a loop device that is still there would have the former content
    ext4.write(flat, image)
    e2fsck(image)
    with (
        mounted(image, memory / "mnt", options="ro,loop") as mount,
        directory.opened(mount, xattrs=True) as seen,
    ):
        same(flat, seen)
        image.unlink()
        expected = {path: blocks_of(node) for path, node in walk(flat) if isinstance(node, File)}
        found = {path: blocks_of(node) for path, node in walk(seen) if isinstance(node, File)}
        for path, blocks in expected.items():
            assert found[path] >= blocks
            # A block for xattrs may make up for a hole: such files are read as if they had none.
            assert found[path] == blocks or max(blocks, default=0) < 64


def blocks_of(node):
    """The blocks that hold data; those of small files are not told apart from holes."""
    if node.size <= 4096:
        return set()
    return {
        block
        for start, length, _, _ in node.extents
        if length
        for block in range(start // 4096, (start + length - 1) // 4096 + 1)
    }


@kernel
@given(trees())
def test_the_kernel_sees_every_node_as_it_was_in_the_tree(memory, tree):
    check_what_the_kernel_sees(memory, tree)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(kernel, max_examples=1000)
@given(trees())
def test_the_kernel_sees_every_node_of_many_trees(memory, tree):
    check_what_the_kernel_sees(memory, tree)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("length", [8, 255])
def test_every_one_of_three_hundred_thousand_names_in_one_directory_is_found(tmp_path, length):
    """Some of them have one hash, and lie in two leaves."""
    names = [b"%0*d" % (length, number) for number in range(300_000)]
    one = Meta(mode=0o644)
    ext4.write(folder({b"d": folder({name: File(meta=one, size=0) for name in names})}), tmp_path / "image")
    e2fsck(tmp_path / "image")
    with mounted(tmp_path / "image", tmp_path / "mnt", options="ro,loop") as mount:
        fd = os.open(mount / "d", os.O_RDONLY)
        try:
            assert all(os.access(name, os.F_OK, dir_fd=fd) for name in names)
            with os.scandir(fd) as entries:
                assert sum(1 for _ in entries) == len(names)
        finally:
            os.close(fd)
    assert ext4.read(tmp_path / "image").children[b"d"].children.keys() == set(names)


@kernel
@given(trees())
def test_the_kernel_takes_over_and_leaves_what_we_can_read(memory, tree):
    flat = merge([tree])
    ext4.write(flat, memory / "image", size=ext4.Size(extra=8 * MIB))
    with mounted(memory / "image", memory / "mnt") as mount:
        change(mount)
    e2fsck(memory / "image")
    with (
        mounted(memory / "image", memory / "mnt", options="ro,loop") as mount,
        directory.opened(mount, xattrs=True) as seen,
    ):
        same(seen, ext4.read(memory / "image"))


def change(mount):
    """New files in a directory until it has an index, a renamed, a removed and a sparse one, links, xattrs, ACLs."""
    grown = mount / "grown"
    grown.mkdir()
    for number in range(600):
        (grown / f"a-name-that-takes-some-room-{number}").write_bytes(b"x" * number)
    (grown / "a-name-that-takes-some-room-1").unlink()
    (grown / "a-name-that-takes-some-room-2").rename(mount / "renamed")
    os.link(mount / "renamed", grown / "link")
    (grown / "symlink").symlink_to("t" * 200)
    for size, value in (("small", b"v"), ("large", b"v" * 3000)):
        os.setxattr(mount / "renamed", f"user.{size}", value)
    os.setxattr(grown, "system.posix_acl_default", ACL)
    with (mount / "sparse").open("wb") as stream:
        for at in range(12):
            stream.seek(at << 22)
            stream.write(b"%d" % at)
    os.mknod(grown / "device", 0o60600, os.makedev(259, 300))


def test_the_kernel_sees_what_lies_at_the_limits(memory):
    large = Meta(mode=0o644, xattrs=((b"security.capability", CAPABILITY), (b"user.a", b"v" * 3900)))
    shared = file(b"x" * 5000)
    tree = folder(
        {
            **{b"f%d" % size: file(b"z" * size) for size in (0, 1, 4095, 4096, 4097, 5_000_000)},
            b"n" * 255: link(b"t" * 4095),
            b"many": folder({b"%d" % number: shared for number in range(65_000)}),
            b"x": File.of(b"1", large),
            b"dx": Directory(meta=large, children={b"a": file()}),
            b"s": sparse(20 << 30, {0: b"head", 7 << 30: b"middle", (20 << 30) - 4: b"tail"}),
            b"pieces": sparse(1 << 34, {at << 22: b"%d" % at for at in range(2000)}),
            b"null": Device(meta=Meta(mode=0o666), block=False, major=1, minor=3),
            b"disk": Device(meta=Meta(mode=0o600), block=True, major=4095, minor=(1 << 20) - 1),
        }
    )
    ext4.write(tree, memory / "image")
    e2fsck(memory / "image")
    with mounted(memory / "image", memory / "mnt", options="ro,loop") as mount:
        assert (mount / "many" / "7").stat().st_nlink == 65_000
        with (mount / "s").open("rb") as stream:
            for position, data in ((0, b"head"), (7 << 30, b"middle"), (9 << 30, bytes(6)), ((20 << 30) - 4, b"tail")):
                stream.seek(position)
                assert stream.read(len(data)) == data
        tree.children.pop(b"s")  # its content was looked at: comparing 20 GB of zeros would take a minute
        with directory.opened(mount, xattrs=True) as seen:
            seen.children.pop(b"s")
            same(tree, seen)


def test_every_name_of_a_large_directory_is_found_by_its_hash(memory):
    """Listing reads the leaves; only a look-up by name follows the index, here one of two levels."""
    names = [f"{number:0250d}" for number in range(8000)] + [f"{number}" for number in range(3000)]
    names += [chr(0xC0 + number % 60) * (number % 100 + 1) + str(number) for number in range(500)]
    one = file(b"1")
    ext4.write(folder({b"d": folder({name.encode(): one for name in names})}), memory / "image")
    with mounted(memory / "image", memory / "mnt", options="ro,loop") as mount:
        assert all(os.access(mount / "d" / name, os.F_OK) for name in names)
        assert not os.access(mount / "d" / "absent", os.F_OK)


@pytest.mark.parametrize("journal", [True, False])
def test_the_kernel_fills_an_empty_file_system_to_the_last_block(memory, journal):
    ext4.empty(memory / "image", 300 * MIB, journal=journal)
    with mounted(memory / "image", memory / "mnt") as mount:
        free = os.statvfs(mount).f_bavail * 4096
        assert free > 280 * MIB - (16 * MIB if journal else 0)
        fill(mount / "full")
        assert (mount / "full").stat().st_size > free - 2 * MIB
    e2fsck(memory / "image")


def fill(path):
    with path.open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(b"x" * MIB):
            pass


def may_resize():
    """CAP_SYS_RESOURCE, which root in a container has not."""
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff"))
    return int(effective.split()[1], 16) >> 24 & 1


@needs_e2fsprogs
@pytest.mark.skipif(not may_resize(), reason="the kernel resizes for CAP_SYS_RESOURCE only")
@pytest.mark.parametrize("growth", [True, False])
def test_a_mounted_file_system_grows(memory, growth):
    """Online by the kernel: with the room kept for descriptors, and without it by way of meta_bg."""
    tree = folder({b"f": file(b"x" * 5 * MIB)})
    ext4.write(tree, memory / "image", growth=growth)
    with (memory / "image").open("r+b") as image:
        image.truncate(20 << 30)
    with mounted(memory / "image", memory / "mnt") as mount:
        device = subprocess.run(["findmnt", "-no", "SOURCE", mount], capture_output=True, text=True, check=True).stdout
        subprocess.run(["resize2fs", device.strip()], check=True, capture_output=True)
        assert os.statvfs(mount).f_blocks * 4096 > 19 << 30
        (mount / "new").write_bytes(b"y" * 30 * MIB)
    e2fsck(memory / "image")
    back = ext4.read(memory / "image")
    assert back.children[b"new"].read() == b"y" * 30 * MIB
    assert back.children[b"f"].read() == b"x" * 5 * MIB


@needs_e2fsprogs
@pytest.mark.parametrize("size", ["2G", "200G"])
def test_an_unmounted_file_system_grows(memory, size):
    ext4.write(folder({b"f": file(b"x" * 5 * MIB)}), memory / "image")
    subprocess.run(["resize2fs", memory / "image", size], check=True, capture_output=True)
    e2fsck(memory / "image")
    assert ext4.read(memory / "image").children[b"f"].read() == b"x" * 5 * MIB


SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
LOG_FLUSHED, LOG_NOT_FLUSHED = struct.pack("I", 1), struct.pack("I", 2)


def shut_down(mount, how):
    """As if the power failed: nothing that is not on the disk gets there any more."""
    fd = os.open(mount, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SHUTDOWN, how)
    finally:
        os.close(fd)


@pytest.mark.parametrize("options", ["loop", "loop,data=journal"])
@pytest.mark.parametrize("how", [LOG_FLUSHED, LOG_NOT_FLUSHED])
def test_a_journal_that_a_crash_left_is_replayed_in_memory(memory, options, how):
    ext4.write(folder({b"f": file(b"1"), b"gone": folder({b"x": file(b"2")})}), memory / "image", size=64 * MIB)
    with mounted(memory / "image", memory / "mnt", options=options) as mount:
        shutil.rmtree(mount / "gone")
        change(mount)
        (mount / "f").write_bytes(b"old" * 5000)
        os.sync()
        change_more(mount)
        shut_down(mount, how)
    sound = (memory / "image").read_bytes()
    tree = ext4.read(memory / "image")
    shutil.copy(memory / "image", memory / "copy")
    with mounted(memory / "copy", memory / "mnt"):
        pass  # the kernel replays
    replayed = ext4.read(memory / "copy")
    assert b"the first block" in replayed.children[b"f"].read()
    assert list(differences(tree, replayed)) == []
    assert (memory / "image").read_bytes() == sound


def change_more(mount):
    """Not synced: it is in the journal, or lost."""
    shutil.rmtree(mount / "grown")
    with (mount / "f").open("r+b") as stream:
        stream.write(b"the first block is replaced, the others are not")
        stream.flush()
        os.fsync(stream.fileno())
    for number in range(100):
        (mount / f"late-{number}").write_bytes(b"\xc0\x3b\x39\x98" * number * 10)


def test_the_kernel_reads_changes_and_removes_our_xattrs_beyond_a_block(memory):
    large = (b"user.large", b"v" * 5000)
    files = {b"%d" % number: File.of(b"1", Meta(mode=0o644, xattrs=(large,))) for number in range(1100)}
    largest = Meta(mode=0o755, xattrs=(large, (b"user.largest", b"w" * 65_536)))
    tree = folder({**files, b"d": Directory(meta=largest)})
    ext4.write(tree, memory / "image", size=64 * MIB)
    with (
        mounted(memory / "image", memory / "mnt", options="ro,loop") as mount,
        directory.opened(mount, xattrs=True) as seen,
    ):
        same(tree, seen)
    with mounted(memory / "image", memory / "mnt") as mount:
        for number in range(1090):
            (mount / str(number)).unlink()
        os.setxattr(mount / "1090", "user.large", b"n" * 6000)
        os.removexattr(mount / "d", "user.largest")
    e2fsck(memory / "image")
    left = ext4.read(memory / "image").children
    assert left[b"1090"].meta.xattrs == ((b"user.large", b"n" * 6000),)
    assert left[b"d"].meta.xattrs == (large,)


@needs_e2fsprogs
def test_large_xattrs_in_inodes_of_their_own_are_read(memory):
    with (memory / "image").open("wb") as image:
        image.truncate(64 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "ea_inode", memory / "image"], check=True)
    with mounted(memory / "image", memory / "mnt") as mount:
        (mount / "f").write_bytes(b"1")
        os.setxattr(mount / "f", "user.large", b"v" * 50_000)
    assert ext4.read(memory / "image").children[b"f"].meta.xattrs == ((b"user.large", b"v" * 50_000),)
