import hashlib
import itertools
import os
import shutil
import struct
import subprocess
import time

import pytest
from hypothesis import HealthCheck, given, settings

from ext4images import crashed, e2fsck, needs_e2fsprogs, same
from firekiln.errors import RootfsError
from firekiln.rootfs import erofs, ext4
from firekiln.rootfs.compare import describe
from firekiln.rootfs.lookup import get
from firekiln.rootfs.merge import merge
from firekiln.rootfs.tree import Device, Directory, Extent, File, Meta, PathSource, Whiteout, walk
from mutation import bounded
from trees import ACL, file, folder, link, sparse, trees

many = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MIB = 1 << 20


def there_and_back(tree, path, **options):
    ext4.write(tree, path, **{"journal": False, **options})
    e2fsck(path)
    back = ext4.read(path)
    same(tree, back)
    return back


def dumpe2fs(path, field):
    found = subprocess.run(["dumpe2fs", "-h", path], capture_output=True, text=True, check=True).stdout
    return next(line.split(":", 1)[1].strip() for line in found.splitlines() if line.startswith(f"{field}:"))


@many
@given(trees())
def test_any_merged_tree_comes_back_equal(tmp_path, tree):
    there_and_back(merge([tree]), tmp_path / "image")


@many
@given(trees())
def test_a_layer_comes_back_equal_where_whiteouts_are_asked_for(tmp_path, tree):
    there_and_back(tree, tmp_path / "image", whiteouts=True)


@many
@given(trees())
def test_the_order_in_which_directories_were_filled_does_not_show(tmp_path, tree):
    def turned(node):
        if not isinstance(node, Directory):
            return node
        children = {name: turned(child) for name, child in reversed(node.children.items())}
        return Directory(meta=node.meta, children=children, opaque=node.opaque)

    for name, each in (("one", tree), ("two", turned(tree))):
        ext4.write(each, tmp_path / name, whiteouts=True, journal=False)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_tree_out_of_layers_and_out_of_memory_gives_the_same_bytes(tmp_path):
    files = {b"%d" % size: file(b"x" * size) for size in (1, 4096, 5000, 300_000)}
    tree = folder({b"d": folder(files), b"l": link(b"d")})
    erofs.write(tree, tmp_path / "layer")
    ext4.write(tree, tmp_path / "one")
    ext4.write(erofs.read(tmp_path / "layer"), tmp_path / "two")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_a_file_that_was_longer_leaves_nothing_behind(tmp_path):
    (tmp_path / "two").write_bytes(b"\xff" * 5 * MIB)
    tree = folder({b"a": file(b"1")})
    for name in ("one", "two"):
        ext4.write(tree, tmp_path / name, journal=False)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_an_open_file_may_be_given_instead_of_a_path(tmp_path):
    fd = os.open(tmp_path / "one", os.O_RDWR | os.O_CREAT)
    try:
        ext4.write(folder({b"a": file(b"1")}), fd)
    finally:
        os.close(fd)
    ext4.write(folder({b"a": file(b"1")}), tmp_path / "two")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 131072, 131073, 5_000_001])
def test_files_around_a_blocks_size_come_back(tmp_path, size):
    there_and_back(folder({b"f": file(os.urandom(size))}), tmp_path / "image")


def test_content_comes_out_of_host_files_at_any_offset(tmp_path):
    data = os.urandom(1_000_000)
    (tmp_path / "blob").write_bytes(data)
    source = PathSource(str(tmp_path / "blob"))
    extents = (Extent(0, 300_001, source, 7), Extent(300_001, 10, source, 999_990))
    back = there_and_back(folder({b"f": File(meta=Meta(mode=0), size=300_011, extents=extents)}), tmp_path / "image")
    assert get(back, b"f").read() == data[7:300_008] + data[-10:]


def test_what_follows_a_files_end_in_its_source_does_not_get_into_the_image(tmp_path):
    (tmp_path / "blob").write_bytes(b"s" * 3 * 4096)
    source = PathSource(str(tmp_path / "blob"))
    files = (File(meta=Meta(mode=0), size=9, extents=(Extent(0, 9, source, at),)) for at in (0, 4096))
    ext4.write(folder({b"%d" % number: each for number, each in enumerate(files)}), tmp_path / "image", journal=False)
    assert (tmp_path / "image").read_bytes().count(b"s" * 10) == 0


def test_neighbours_in_a_layer_are_copied_together(tmp_path):
    tree = folder({b"%03d" % number: file(b"x" * (number * 37 + 1)) for number in range(300)})
    erofs.write(tree, tmp_path / "layer")
    done = []
    ext4.write(erofs.read(tmp_path / "layer"), tmp_path / "image", progress=lambda *counts: done.append(counts))
    assert done == [(done[0][1], done[0][1])]


def test_progress_ends_with_all_bytes(tmp_path):
    done = []
    tree = folder({b"a": file(b"x" * 200_000), b"b": file(b"y" * 100)})
    ext4.write(tree, tmp_path / "image", progress=lambda now, all_of_them: done.append((now, all_of_them)))
    assert done[-1] == (200_100, 200_100)


def test_twenty_sparse_gigabytes_take_a_few_blocks(tmp_path):
    size = 20 << 30
    tree = folder({b"s": sparse(size, {0: b"head", 7 << 30: b"middle", size - 4: b"tail"}), b"h": sparse(1 << 40, {})})
    there_and_back(tree, tmp_path / "image")
    assert (tmp_path / "image").stat().st_size < MIB


def test_a_file_in_a_thousand_pieces_has_a_tree_of_extents(tmp_path):
    tree = folder({b"s": sparse(1 << 36, {at << 25: b"%d" % at for at in range(1500)}), b"f": file(b"1")})
    there_and_back(tree, tmp_path / "image")


def test_metadata_between_files_survive_the_files(tmp_path):
    """Trees of extents lie between the content that a thread writes meanwhile."""
    scattered = {at << 22: b"%d" % at for at in range(9)}
    tree = folder({b"%d" % number: sparse(1 << 26, scattered) for number in range(50)})
    for _ in range(5):
        there_and_back(tree, tmp_path / "image")


def test_names_targets_and_links_go_up_to_the_limits(tmp_path):
    shared = file(b"x")
    tree = folder({b"n" * 255: link(b"t" * 4095), b"m" * 255: folder({str(i).encode(): shared for i in range(65_000)})})
    back = there_and_back(tree, tmp_path / "image")
    assert len({id(node) for _, node in walk(back.children[b"m" * 255])}) == 1


@pytest.mark.parametrize("length", [58, 59, 60, 61, 4094])
def test_targets_of_links_lie_in_the_inode_or_in_a_block(tmp_path, length):
    there_and_back(folder({b"l": link(b"t" * length)}), tmp_path / "image")


def test_directories_of_every_size_around_a_block_come_back(tmp_path):
    sizes = [0, 1, 252, 253, 254, 255, 256, 500, 2000]
    tree = folder({str(n).encode(): folder({b"%06d" % i: file() for i in range(n)}) for n in sizes})
    there_and_back(tree, tmp_path / "image")


def test_a_directory_too_large_for_one_level_of_index_gets_two(tmp_path):
    tree = folder({b"d": folder({b"%0250d" % number: file() for number in range(9000)})})
    there_and_back(tree, tmp_path / "image")
    if shutil.which("debugfs"):
        argv = ["debugfs", "-R", "htree /d", tmp_path / "image"]
        assert "Indirect levels: 1" in subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_more_sub_directories_than_can_be_counted_are_not_counted(tmp_path):
    there_and_back(folder({b"d": folder({b"%d" % number: folder() for number in range(65_100)})}), tmp_path / "image")


@pytest.mark.slow
def test_three_hundred_thousand_files_lie_in_one_directory(tmp_path):
    empty = Meta(mode=0o644)
    tree = folder({b"%d" % number: File(meta=empty, size=0) for number in range(300_000)})
    there_and_back(tree, tmp_path / "image")


def test_several_groups_come_back_with_their_copies_of_the_superblock_stepped_over(tmp_path):
    tree = folder({b"%d" % number: file(bytes([number]) * 40 * MIB) for number in range(1, 12)})
    there_and_back(tree, tmp_path / "image", journal=True)


def test_xattrs_lie_in_the_inode_in_a_block_or_in_one_that_many_share(tmp_path):
    small = (b"security.selinux", b"system_u:object_r:etc_t:s0\0")
    large = (b"user.large", b"v" * 3900)
    metas = {
        b"in": Meta(mode=0o644, xattrs=(small,)),
        b"out": Meta(mode=0o644, xattrs=(large,)),
        b"both": Meta(mode=0o644, xattrs=(small, large)),
        b"empty": Meta(mode=0o644, xattrs=((b"user.e", b""),)),
    }
    shared = {b"%d" % number: File.of(b"", metas[b"both"]) for number in range(1030)}
    there_and_back(
        folder({**{name: File.of(b"1", meta) for name, meta in metas.items()}, **shared}), tmp_path / "image"
    )


def test_xattrs_beyond_a_block_have_inodes_of_their_own_which_many_share(tmp_path):
    large, largest = (b"user.large", b"v" * 5000), (b"user.largest", b"w" * 65_536)
    tree = folder(
        {
            b"both": attributed(large, largest),
            b"twice": attributed(large, (b"user.other", large[1])),
            b"many": attributed(*((b"user.%03d" % number, b"%d" % number * 50) for number in range(100))),
            b"d": Directory(meta=Meta(mode=0o755, xattrs=((b"trusted.large", b"v" * 9000),))),
            **{b"%d" % number: attributed(large) for number in range(1100)},
        }
    )
    there_and_back(tree, tmp_path / "image", journal=True)


@needs_e2fsprogs
def test_only_an_image_with_xattrs_beyond_a_block_has_the_feature_for_them(tmp_path):
    for value, there in ((b"v" * 3900, False), (b"v" * 4100, True)):
        ext4.write(folder({b"f": attributed((b"user.a", value))}), tmp_path / "image")
        assert ("ea_inode" in dumpe2fs(tmp_path / "image", "Filesystem features")) is there


def test_a_posix_acl_comes_back_in_the_form_of_getxattr(tmp_path):
    meta = Meta(mode=0o755, xattrs=((b"system.posix_acl_access", ACL), (b"system.posix_acl_default", ACL)))
    there_and_back(folder({b"d": Directory(meta=meta)}), tmp_path / "image")


def test_devices_of_old_and_new_numbers_come_back(tmp_path):
    numbers = [(1, 3), (255, 255), (256, 0), (8, 256), (4095, (1 << 20) - 1)]
    nodes = {
        b"%d-%d-%d" % (block, major, minor): Device(meta=Meta(mode=0o600), block=block, major=major, minor=minor)
        for block, (major, minor) in itertools.product((False, True), numbers)
    }
    there_and_back(
        folder({**nodes, b"b00": Device(meta=Meta(mode=0), block=True, major=0, minor=0)}), tmp_path / "image"
    )


FIRST, LAST = -(1 << 31) * 10**9, ((3 << 32) + (1 << 31)) * 10**9 - 1


@pytest.mark.parametrize("mtime", [FIRST, -1, 0, 999_999_999, (1 << 31) * 10**9 + 1, (1 << 32) * 10**9, LAST])
def test_times_from_1901_to_2446_are_kept_to_the_nanosecond(tmp_path, mtime):
    back = there_and_back(folder({b"f": file(mtime_ns=mtime)}), tmp_path / "image")
    assert back.children[b"f"].meta.mtime_ns == mtime


DOUBTED_FROM, DOUBTED_TO = ((3 << 32) - (1 << 31)) * 10**9, (3 << 32) * 10**9


@pytest.mark.parametrize(
    ("mtime", "stored"),
    [
        (FIRST - 1, FIRST),
        (DOUBTED_FROM - 1, DOUBTED_FROM - 1),
        (DOUBTED_FROM, DOUBTED_FROM - 1),
        (DOUBTED_TO - 1, DOUBTED_TO),
        (DOUBTED_TO, DOUBTED_TO),
        (1 << 70, LAST // 10**9 * 10**9),
    ],
)
def test_times_that_ext4_has_not_or_e2fsck_would_change_are_stored_as_the_nearest(tmp_path, mtime, stored):
    assert there_and_back(folder({b"f": file(mtime_ns=mtime)}), tmp_path / "i").children[b"f"].meta.mtime_ns == stored


def test_a_lost_found_of_the_tree_is_kept(tmp_path):
    tree = folder({b"lost+found": folder({b"#12": file(b"1")}, mode=0o711)})
    assert get(there_and_back(tree, tmp_path / "image"), b"lost+found/#12").read() == b"1"
    there_and_back(folder({b"lost+found": file(b"a file")}), tmp_path / "image")


def test_the_smallest_size_is_nearly_full_and_extra_bytes_are_free(tmp_path):
    tree = folder({b"f": file(b"x" * 10 * MIB)})
    least = ext4.write(tree, tmp_path / "image", journal=False).size
    assert least < 11 * MIB
    larger = ext4.write(tree, tmp_path / "image", journal=False, size=ext4.Size(extra=500 * MIB)).size
    assert 500 * MIB <= larger - least < 520 * MIB
    e2fsck(tmp_path / "image")


@pytest.mark.parametrize("size", [20 * MIB, 20 * MIB + 4095, 129 * MIB, 256 * MIB + 8192, 1 << 30, 5 << 30, 100 << 30])
def test_a_size_may_be_given(tmp_path, size):
    tree = folder({b"f": file(b"x" * 10 * MIB)})
    written = ext4.write(tree, tmp_path / "image", size=size)
    assert written.size == (tmp_path / "image").stat().st_size
    assert size - 128 * MIB / 8 < written.size <= size
    e2fsck(tmp_path / "image")
    same(tree, ext4.read(tmp_path / "image"))


def test_a_size_that_is_too_small_is_refused_with_the_one_that_is_needed(tmp_path):
    with pytest.raises(RootfsError, match=r"a size of 8388608 bytes is too small, 1\d{7} are needed"):
        ext4.write(folder({b"f": file(b"x" * 10 * MIB)}), tmp_path / "image", size=8 * MIB)
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize("blocks", range(2300, 2330, 7))
def test_every_size_near_the_smallest_is_sound(tmp_path, blocks):
    ext4.empty(tmp_path / "image", blocks * 4096, journal=True)
    e2fsck(tmp_path / "image")


@pytest.mark.parametrize("blocks", [32768, 32769, 32820, 33000, 98304, 98306, 98400, 98500])
def test_a_last_group_of_any_length_is_sound(tmp_path, blocks):
    ext4.write(folder(), tmp_path / "image", size=blocks * 4096)
    e2fsck(tmp_path / "image")


@needs_e2fsprogs
def test_label_uuid_and_time_of_birth_stand_in_the_superblock(tmp_path):
    uuid = "0b4dd1b0-7f3c-4e0e-9d5a-3a7c1f6f2a11"
    written = ext4.write(folder(), tmp_path / "image", label="root", uuid=uuid, epoch=1_700_000_000)
    assert written.uuid == uuid
    assert dumpe2fs(tmp_path / "image", "Filesystem volume name") == "root"
    assert dumpe2fs(tmp_path / "image", "Filesystem UUID") == uuid
    assert "2023" in dumpe2fs(tmp_path / "image", "Filesystem created")


@needs_e2fsprogs
def test_features_are_those_that_mke2fs_gives(tmp_path):
    ext4.write(folder(), tmp_path / "ours", size=1 << 30)
    with (tmp_path / "theirs").open("wb") as image:
        image.truncate(1 << 30)
    argv = ["mke2fs", "-q", "-t", "ext4", "-O", "metadata_csum,64bit,^orphan_file,^metadata_csum_seed"]
    subprocess.run([*argv, tmp_path / "theirs"], check=True)
    for field in ("Filesystem features", "Reserved GDT blocks", "Total journal blocks", "Inode count", "Inode size"):
        assert dumpe2fs(tmp_path / "ours", field) == dumpe2fs(tmp_path / "theirs", field)


def test_the_uuid_is_the_trees_own_unless_it_is_given(tmp_path):
    one = ext4.write(folder({b"a": file()}), tmp_path / "image").uuid
    assert one == ext4.write(folder({b"a": file()}), tmp_path / "image").uuid
    assert one != ext4.write(folder({b"b": file()}), tmp_path / "image").uuid


def test_the_uuid_does_not_depend_on_where_files_lie(tmp_path):
    tree = folder({b"a": file(b"1" * 9000), b"l": link(b"t" * 99), b"s": sparse(1 << 20, {1 << 19: b"2"})})
    uuids = {ext4.write(tree, tmp_path / "image", size=size).uuid for size in (None, 64 * MIB, 3 << 30)}
    assert len(uuids) == 1


def test_an_empty_file_system_costs_little_at_any_size(tmp_path):
    ext4.empty(tmp_path / "image", 1 << 30)
    start = time.process_time()
    ext4.empty(tmp_path / "image", 10 << 30)
    assert time.process_time() - start < 0.05  # 3 ms, had the machine nothing else to do
    assert (tmp_path / "image").stat().st_blocks * 512 < 256 << 10
    e2fsck(tmp_path / "image")


def test_the_image_is_as_sparse_as_it_is_empty(tmp_path):
    ext4.write(folder({b"f": file(b"x" * MIB)}), tmp_path / "image", size=2 << 30)
    assert (tmp_path / "image").stat().st_blocks * 512 < 4 * MIB


def attributed(*pairs):
    return File.of(b"", Meta(mode=0o644, xattrs=pairs))


ONE = folder()
SHARED = file()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (folder({b"d": folder({b"n" * 256: file()})}), "/d/n+: a name of 256 bytes"),
        (folder({b"l": link(b"t" * 4096)}), "/l: a link's target of 4096 bytes"),
        (folder({b"f": attributed((b"user.a", b"v" * 65_537))}), r"/f: extended attribute 'user.a' of 65537 bytes"),
        (
            folder({b"f": attributed(*((b"user.%0200d" % number, b"v") for number in range(20)))}),
            r"/f: 20 extended attributes; ext4 has no room for \d+ bytes of their names",
        ),
        (folder({b"f": attributed((b"system.data", b""))}), "/f: ext4 cannot hold an extended attribute named"),
        (folder({b"f": attributed((b"user.", b""))}), "/f: ext4 cannot hold"),
        (folder({b"f": attributed((b"system.posix_acl_access", b"12"))}), "/f: its POSIX ACL is malformed"),
        (folder({b"f": file(uid=1 << 32)}), "/f: owner 4294967296:0 is out of range"),
        (folder({b"c": Device(meta=Meta(mode=0), block=False, major=0, minor=0)}), "/c: a character device 0:0"),
        (folder({b"w": Whiteout()}), "/w: a whiteout belongs to a layer"),
        (folder({b"o": folder(opaque=True)}), "/o: an opaque directory belongs to a layer"),
        (folder({b"a": ONE, b"b": ONE}), "/b: a directory cannot have two names"),
        (folder({b"f": sparse(1 << 45, {})}), "/f: a size of 35184372088832 bytes"),
        (folder({b"%05d" % number: SHARED for number in range(65_001)}), "/00000: 65001 names; ext4 counts 65000"),
    ],
)
def test_what_ext4_cannot_hold_is_refused_with_its_path(tmp_path, tree, message):
    with pytest.raises(RootfsError, match=message):
        ext4.write(tree, tmp_path / "image")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "seventeen letters"}, "is no label"),
        ({"uuid": "12"}, "'12' is no UUID"),
        ({"epoch": -1}, "no place for the time -1"),
        ({"size": 1 << 60}, "is the most that is made here"),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, message):
    with pytest.raises(RootfsError, match=message):
        ext4.write(folder(), tmp_path / "image", **options)


def test_a_source_that_ends_early_is_an_error_with_the_path(tmp_path):
    (tmp_path / "short").write_bytes(b"123")
    extents = (Extent(0, 10, PathSource(str(tmp_path / "short")), 0),)
    with pytest.raises(RootfsError, match="/d/f: its content ended 7 bytes early"):
        ext4.write(folder({b"d": folder({b"f": File(meta=Meta(mode=0), size=10, extents=extents)})}), tmp_path / "i")


@pytest.mark.parametrize("data", [b"", b"short", bytes(5000)])
def test_what_is_no_ext4_image_is_refused(tmp_path, data):
    (tmp_path / "image").write_bytes(data)
    with pytest.raises(RootfsError, match="not an ext4 file system"):
        ext4.read(tmp_path / "image")


@needs_e2fsprogs
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-b", "1024"], "other blocks than of 4096"),
        (["-O", "^extent,^64bit"], "none of extents"),
        (["-b", "4096", "-O", "bigalloc"], "features that are not known here: bigalloc"),
        (["-b", "4096", "-O", "inline_data"], "features that are not known here: inline_data"),
        (["-b", "4096", "-O", "encrypt"], "features that are not known here: encrypt"),
        (["-b", "4096", "-O", "casefold"], "features that are not known here: casefold"),
        (["-b", "4096", "-O", "mmp"], "features that are not known here: mmp"),
    ],
)
def test_other_kinds_of_ext4_are_refused(tmp_path, options, message):
    with (tmp_path / "image").open("wb") as image:
        image.truncate(16 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", *options, tmp_path / "image"], check=True)
    with pytest.raises(RootfsError, match=message):
        ext4.read(tmp_path / "image")


def test_damage_ends_in_a_clear_error_or_another_tree_but_never_in_a_crash(tmp_path):
    path = tmp_path / "image"
    disk = Device(meta=Meta(mode=0), block=True, major=1, minor=1)
    inner = folder({b"f": file(b"1"), b"l": link(b"f" * 99), b"c": disk})
    pieces = sparse(1 << 20, {at * 9999: b"1" for at in range(9)})
    tree = folder({b"d": inner, b"s": pieces, b"x": attributed((b"user.a", b"v" * 99))})
    ext4.write(tree, path, journal=False, growth=False)
    sound = path.read_bytes()
    places = [at for at in range(1024, len(sound), 3) if any(sound[at & ~15 : (at & ~15) + 16])]
    refused = 0
    with path.open("r+b", buffering=0) as image:
        for at, value in itertools.product(places, (b"\xff", b"\x01")):
            os.pwrite(image.fileno(), value, at)
            try:
                describe(ext4.read(path))
            except RootfsError:
                refused += 1
            os.pwrite(image.fileno(), sound[at : at + 1], at)
    assert refused > 50


def test_a_crashs_journal_hides_what_lies_in_the_image(tmp_path):
    """Content that begins as the journal's own blocks do is escaped in it."""
    ext4.write(folder({b"f": file(b"old!" * 2048), b"g": file(b"kept")}), tmp_path / "image", size=16 * MIB)
    image = (tmp_path / "image").read_bytes()
    first = image.index(b"old!") // 4096
    newer = {first: b"\xc0\x3b\x39\x98".ljust(4096, b"!"), first + 1: b"new!" * 1024}
    (tmp_path / "image").write_bytes(crashed(image, newer))
    back = ext4.read(tmp_path / "image")
    assert back.children[b"f"].read() == b"".join(newer.values())
    assert back.children[b"g"].read() == b"kept"


def test_a_journal_that_never_ends_is_read_once(tmp_path):
    """Each of its blocks promises more blocks than there are."""
    ext4.write(folder(), tmp_path / "image", size=16 * MIB)
    image = bytearray(crashed((tmp_path / "image").read_bytes(), {99: bytes(4096)}))
    journal = image.index(b"\xc0\x3b\x39\x98\0\0\0\4")
    descriptor = (
        image[journal + 4096 : journal + 4096 + 12]
        + struct.pack(">IHH", 99, 0, 2) * 500
        + struct.pack(">IHH", 99, 0, 10)
    )
    for at in range(1, 1024):
        image[journal + at * 4096 : journal + (at + 1) * 4096] = descriptor.ljust(4096, b"\0")
    (tmp_path / "image").write_bytes(image)
    with bounded(memory=256 * MIB, seconds=5):
        assert list(ext4.read(tmp_path / "image").children) == [b"lost+found"]


def test_reading_one_file_reads_only_the_directories_on_its_way(tmp_path):
    ext4.write(folder({b"a": folder({b"x": file(b"1")}), b"b": folder({b"y": file()})}), tmp_path / "image")
    back = ext4.read(tmp_path / "image")
    assert get(back, b"a/x").read() == b"1"
    assert back.children[b"b"]._children is None
