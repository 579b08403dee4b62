"""What lies at the limits, through every format: names, depth, owners, times, numbers of entries."""

import json
import subprocess
import sys

import pytest

from ext4images import e2fsck, same
from firekiln.errors import RootfsError
from firekiln.rootfs import cpio, erofs, ext4, tar
from firekiln.rootfs.compare import differences
from firekiln.rootfs.tree import Directory, File, Meta
from mutation import bounded
from trees import file, folder, link, sparse

MIB = 1 << 20
DAY = 86_400 * 10**9


def through_erofs(tree, path):
    erofs.write(tree, path)
    return erofs.read(path)


def through_ext4(tree, path):
    ext4.write(tree, path)
    e2fsck(path)
    back = ext4.read(path)
    del back.children[b"lost+found"]
    return back


def through_tar(tree, path):
    with path.open("wb") as out:
        tar.write(tree, out.fileno())
    return tar.read(path)


def through_cpio(tree, path):
    cpio.write(tree, path)
    return cpio.read(path)


FORMATS = {"erofs": through_erofs, "ext4": through_ext4, "tar": through_tar, "cpio": through_cpio}
every_format = pytest.mark.parametrize("form", FORMATS)


def nested(levels, name=b"d"):
    tree = folder({b"f": file(b"deep")})
    for _ in range(levels):
        tree = folder({name: tree})
    return tree


@every_format
def test_directories_deeper_than_python_recurs_come_back(tmp_path, form):
    tree = nested(2000)
    assert list(differences(tree, FORMATS[form](tree, tmp_path / "image"))) == []


@pytest.mark.parametrize("form", ["erofs", "ext4"])
def test_paths_that_no_system_call_takes_are_refused(tmp_path, form):
    with pytest.raises(RootfsError, match=r"/dddd.*…: a path of 4\d+ bytes; the kernel takes 4095"):
        FORMATS[form](nested(100, b"d" * 255), tmp_path / "image")


@every_format
def test_names_and_targets_of_full_length_come_back(tmp_path, form):
    shared = file(b"x")
    names = {bytes([first]) * 255: shared for first in (1, 0x20, 0x7F, 0x80, 0xFF)}
    tree = folder({**names, b"l": link(b"t" * 4095), b"m" * 255: folder({b"n" * 255: link(b"/" * 4095)})})
    assert list(differences(tree, FORMATS[form](tree, tmp_path / "image"))) == []


@every_format
@pytest.mark.parametrize("owner", [0, 65_535, 65_536, (1 << 31) - 1, 1 << 31, (1 << 32) - 2])
def test_owners_of_all_sizes_come_back(tmp_path, form, owner):
    tree = folder({b"f": file(uid=owner, gid=owner ^ 1), b"d": Directory(meta=Meta(mode=0o7777, uid=owner, gid=owner))})
    assert list(differences(tree, FORMATS[form](tree, tmp_path / "image"))) == []


@pytest.mark.parametrize("form", ["erofs", "ext4", "tar"])
@pytest.mark.parametrize("days", [-24_855, -366, -1, 0, 24_856, 49_711, 100_000, 124_275, 149_200, 173_900])
def test_times_around_every_edge_of_32_bits_come_back_to_the_nanosecond(tmp_path, form, days):
    times = {b"%d" % offset: file(mtime_ns=days * DAY + offset) for offset in (-1, 0, 1, 999_999_999)}
    assert list(differences(folder(times), FORMATS[form](folder(times), tmp_path / "image"))) == []


@every_format
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097])
def test_files_around_a_blocks_size_come_back(tmp_path, form, size):
    tree = folder({b"f": file(b"\xff" * size), b"g": file(b"next")})
    assert list(differences(tree, FORMATS[form](tree, tmp_path / "image"))) == []


def test_inodes_and_blocks_cross_the_borders_of_groups(tmp_path):
    """20,000 inodes lie in two groups' tables, whose blocks are full; the second begins with a copy of superblock."""
    small = {b"%d" % number: file(b"%d" % number, mtime_ns=number) for number in range(20_000)}
    tree = folder({b"small": folder(small), b"large": file(b"x" * 100 * MIB)})
    ext4.write(tree, tmp_path / "image")
    e2fsck(tmp_path / "image")
    same(tree, ext4.read(tmp_path / "image"))


PROGRAM = """
import json, resource, sys
from firekiln.rootfs import erofs, ext4, tar
tree = tar.read(sys.argv[1])
after_reading = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
erofs.write(tree, sys.argv[2])
after_erofs = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ext4.write(erofs.read(sys.argv[2]), sys.argv[3])
at_last = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([peak // 1024 for peak in (after_reading, after_erofs, at_last)]))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_entries_take_a_few_hundred_megabytes(tmp_path):
    """Peaks in MiB of a process that reads an archive of so many members, and makes a layer and a disk of it."""
    meta = Meta(mode=0o644, mtime_ns=10**18)
    folders = {
        b"%04d" % each: folder({b"file-%06d" % number: File.of(b"%d" % number, meta) for number in range(1000)})
        for each in range(1000)
    }
    with (tmp_path / "a.tar").open("wb") as out:
        tar.write(folder(folders), out.fileno())
    del folders
    argv = [sys.executable, "-c", PROGRAM, *(tmp_path / name for name in ("a.tar", "layer", "disk"))]
    peaks = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    print(f"peaks in MiB: {peaks}")
    assert peaks[0] < 900
    assert peaks[2] < 2200
    e2fsck(tmp_path / "disk")


def test_a_tree_of_extents_that_many_files_claim_is_damage(tmp_path):
    """Without a look at that, a thousand small inodes would be a million extents in memory."""
    pieces = {at << 13: b"1" for at in range(300)}
    tree = folder({b"%d" % number: sparse(1 << 22, pieces) for number in range(2)})
    ext4.write(tree, tmp_path / "image", journal=False)
    image = bytearray((tmp_path / "image").read_bytes())
    roots = [at for at in range(0, len(image), 256) if image[at + 40 : at + 48] == b"\x0a\xf3\1\0\4\0\1\0"]
    assert len(roots) == 2
    image[roots[1] + 40 : roots[1] + 100] = image[roots[0] + 40 : roots[0] + 100]
    (tmp_path / "image").write_bytes(image)
    with bounded(), pytest.raises(RootfsError, match=r"damaged at inode \d+ \(block \d+ is used twice\)"):
        list(ext4.read(tmp_path / "image").children)
