import contextlib
import itertools
import os
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from firekiln.errors import RootfsError
from firekiln.rootfs import directory, erofs
from firekiln.rootfs.compare import describe, differences
from firekiln.rootfs.lookup import get
from firekiln.rootfs.tree import Device, Directory, Extent, File, Meta, PathSource, Whiteout, walk
from trees import file, folder, link, sparse, trees

needs_fsck = pytest.mark.skipif(not shutil.which("fsck.erofs"), reason="erofs-utils is not installed")
many = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def fsck(path):
    found = subprocess.run(["fsck.erofs", path], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def there_and_back(tree, path):
    erofs.write(tree, path)
    back = erofs.read(path)
    assert list(differences(tree, back)) == []
    if shutil.which("fsck.erofs"):
        fsck(path)
    return back


@many
@given(trees())
def test_any_tree_comes_back_equal(tmp_path, tree):
    there_and_back(tree, tmp_path / "image")


@many
@given(trees())
def test_the_order_in_which_directories_were_filled_does_not_show(tmp_path, tree):
    def turned(node, known):
        if not isinstance(node, Directory):
            return node
        children = {name: turned(child, known) for name, child in reversed(node.children.items())}
        return Directory(meta=node.meta, children=children, opaque=node.opaque)

    assert erofs.write(tree, tmp_path / "one") == erofs.write(turned(tree, {}), tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_digest_is_that_of_the_file(tmp_path):
    written = erofs.write(folder({b"a": file(b"x" * 3_000_000), b"b": file(b"y")}), tmp_path / "image")
    found = subprocess.run(["sha256sum", tmp_path / "image"], capture_output=True, text=True, check=True).stdout
    assert written.digest == f"sha256:{found.split()[0]}"
    assert written.size == (tmp_path / "image").stat().st_size


def test_an_open_file_may_be_given_instead_of_a_path(tmp_path):
    tree = folder({b"a": file(b"1")})
    fd = os.open(tmp_path / "one", os.O_RDWR | os.O_CREAT)
    try:
        assert erofs.write(tree, fd) == erofs.write(tree, tmp_path / "two")
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 131072, 131073, 5_000_001])
def test_files_around_a_blocks_size_come_back(tmp_path, size):
    there_and_back(folder({b"f": file(os.urandom(size))}), tmp_path / "image")


def test_content_comes_out_of_host_files_at_any_offset(tmp_path):
    data = os.urandom(1_000_000)
    (tmp_path / "blob").write_bytes(data)
    source = PathSource(str(tmp_path / "blob"))
    extents = (Extent(0, 300_001, source, 7), Extent(300_001, 10, source, 999_990))
    erofs.write(folder({b"f": File(meta=Meta(mode=0), size=300_011, extents=extents)}), tmp_path / "image")
    assert get(erofs.read(tmp_path / "image"), b"f").read() == data[7:300_008] + data[-10:]


def test_twenty_sparse_gigabytes_take_a_few_blocks(tmp_path):
    size = 20 << 30
    tree = folder({b"s": sparse(size, {0: b"head", 7 << 30: b"middle", size - 4: b"tail"}), b"h": sparse(1 << 40, {})})
    there_and_back(tree, tmp_path / "image")
    assert (tmp_path / "image").stat().st_size < 2_000_000
    assert get(erofs.read(tmp_path / "image"), b"s").size == size


def test_names_targets_and_links_go_up_to_the_kernels_limits(tmp_path):
    shared = file(b"x")
    tree = folder({b"n" * 255: link(b"t" * 4095), b"m" * 255: folder({str(i).encode(): shared for i in range(65_000)})})
    back = there_and_back(tree, tmp_path / "image")
    assert len({id(node) for _, node in walk(back.children[b"m" * 255])}) == 1


def test_directories_of_every_size_around_a_block_come_back(tmp_path):
    sizes = [0, 1, 200, 222, 223, 224, 225, 226, 227, 228, 500]
    tree = folder({str(n).encode(): folder({b"%06d" % i: file() for i in range(n)}) for n in sizes})
    there_and_back(tree, tmp_path / "image")


def test_large_xattrs_push_tails_out_of_the_inodes_block(tmp_path):
    meta = Meta(mode=0o755, xattrs=((b"user.a", b"v" * 4000), (b"user.b", b"w" * 65_535)))
    tree = Directory(meta=meta, children={b"f": File.of(b"1", meta), b"d": Directory(meta=meta)})
    there_and_back(tree, tmp_path / "image")


def test_an_opaque_directory_and_a_whiteout_are_stored_as_overlayfs_has_them(tmp_path):
    path = tmp_path / "image"
    back = there_and_back(folder({b"d": folder({b"w": Whiteout()}, opaque=True)}), path)
    assert back.children[b"d"].opaque
    assert back.children[b"d"].meta.xattrs == ()
    assert b"overlay.opaquey" in path.read_bytes()


def test_notes_of_overlayfs_are_never_stored(tmp_path):
    meta = Meta(mode=0o755, xattrs=((b"trusted.overlay.redirect", b"/etc"), (b"user.kept", b"1")))
    erofs.write(folder({b"d": Directory(meta=meta)}), tmp_path / "image")
    assert b"overlay" not in (tmp_path / "image").read_bytes()
    assert erofs.read(tmp_path / "image").children[b"d"].meta.xattrs == ((b"user.kept", b"1"),)


def xattrs(*pairs):
    return File.of(b"", Meta(mode=0o644, xattrs=pairs))


ONE = folder()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (folder({b"d": folder({b"n" * 256: file()})}), "/d/n+: a name of 256 bytes"),
        (folder({b"..": file()}), r"/\.\.: '\.\.' is no name"),
        (folder({b"a/b": file()}), "is no name"),
        (folder({b"l": link(b"t" * 4096)}), "/l: a link's target of 4096 bytes"),
        (folder({b"l": link(b"")}), "/l: a link's target of 0 bytes"),
        (folder({b"f": xattrs((b"user.a", b"v" * 65_536))}), "/f: extended attribute 'user.a' is too long"),
        (folder({b"f": xattrs(*((b"user.%d" % i, b"v" * 65_000) for i in range(5)))}), "/f: its extended attributes"),
        (folder({b"f": xattrs((b"system.other", b""))}), "/f: EROFS cannot hold an extended attribute named"),
        (folder({b"f": xattrs((b"user.", b""))}), "/f: EROFS cannot hold"),
        (folder({b"f": file(uid=1 << 32)}), "/f: owner 4294967296:0 is out of range"),
        (folder({b"c": Device(meta=Meta(mode=0), block=False, major=0, minor=0)}), "/c: a character device 0:0"),
        (folder({b"c": Device(meta=Meta(mode=0), block=True, major=4096, minor=0)}), "/c: device 4096:0"),
        (folder({b"a": ONE, b"b": ONE}), "/b: a directory cannot have two names"),
        (
            folder({b"f": sparse(1 << 62, {0: b"1", (1 << 62) - 1: b"1"})}),
            "/f: a sparse file of 4611686018427387904 bytes",
        ),
    ],
)
def test_what_erofs_cannot_hold_is_refused_with_its_path(tmp_path, tree, message):
    with pytest.raises(RootfsError, match=message):
        erofs.write(tree, tmp_path / "image")


def test_a_source_that_ends_early_is_an_error_with_the_path(tmp_path):
    (tmp_path / "short").write_bytes(b"123")
    extents = (Extent(0, 10, PathSource(str(tmp_path / "short")), 0),)
    with pytest.raises(RootfsError, match="/d/f: its content ended 7 bytes early"):
        erofs.write(folder({b"d": folder({b"f": File(meta=Meta(mode=0), size=10, extents=extents)})}), tmp_path / "i")


@pytest.mark.parametrize("data", [b"", b"short", bytes(5000), b"\xe2\xe1\xf5\xe0" * 2000])
def test_what_is_no_erofs_image_is_refused(tmp_path, data):
    (tmp_path / "image").write_bytes(data)
    with pytest.raises(RootfsError, match="EROFS"):
        erofs.read(tmp_path / "image")


def test_damage_ends_in_a_clear_error_or_another_tree_but_never_in_a_crash(tmp_path):
    path = tmp_path / "image"
    inner = folder({b"f": file(b"1"), b"l": link(b"f")})
    tree = folder({b"d": inner, b"s": sparse(1 << 20, {9999: b"1"}), b"x": xattrs((b"user.a", b"v"))})
    metadata = range(1024, erofs.write(tree, path).size - 8192, 3)
    sound = path.read_bytes()
    refused = 0
    with path.open("r+b", buffering=0) as image:
        for at, value in itertools.product(metadata, (b"\xff", b"\x01")):
            os.pwrite(image.fileno(), value, at)
            try:
                describe(erofs.read(path))
            except RootfsError:
                refused += 1
            os.pwrite(image.fileno(), sound[at : at + 1], at)
    assert refused > 50


def test_reading_one_file_reads_only_the_directories_on_its_way(tmp_path):
    erofs.write(folder({b"a": folder({b"x": file(b"1")}), b"b": folder({b"y": file()})}), tmp_path / "image")
    back = erofs.read(tmp_path / "image")
    assert get(back, b"a/x").read() == b"1"
    assert back.children[b"b"]._children is None


@pytest.mark.skipif(not shutil.which("mkfs.erofs"), reason="erofs-utils is not installed")
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-Eforce-inode-extended",),
        ("-Eforce-inode-compact",),
        ("-Enoinline_data",),
        ("-Enosbcrc",),
        ("--chunksize=4096",),
        ("--chunksize=8192", "-Eforce-chunk-indexes"),
        ("--chunksize=8192", "-Eforce-inode-blockmap"),
        ("-x2", "-Eforce-inode-extended"),
    ],
)
def test_what_mkfs_makes_without_compression_is_read(tmp_path, options):
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    for size in (0, 1, 4095, 4096, 4097, 20_000):
        (root / f"f{size}").write_bytes(os.urandom(size))
    with (root / "holes").open("wb") as stream:
        for at in range(0, 9 << 16, 1 << 16):
            stream.seek(at)
            stream.write(b"%d" % at)
    for number in range(300):
        (root / "d" / f"{number:030}").write_bytes(b"same")
    (root / "d" / "l").symlink_to("../f1")
    (root / "hard").hardlink_to(root / "f1")
    os.mkfifo(root / "p")
    with contextlib.suppress(OSError):  # a file system without user xattrs still tests the rest
        for name in ("f1", "f4095", "d"):
            os.setxattr(root / name, "user.shared", b"by all of them")
            os.setxattr(root / name, f"user.{name}", b"inline")
    command = ["mkfs.erofs", "-x1", *options, tmp_path / "image", root]
    subprocess.run(command, check=True, capture_output=True)
    expected, found = directory.read(root, xattrs=True), erofs.read(tmp_path / "image")
    if "-Eforce-inode-extended" not in options:  # compact inodes hold no times
        expected, found = (timeless(tree, {}) for tree in (expected, found))
    assert list(differences(expected, found)) == []


@pytest.mark.skipif(not shutil.which("mkfs.erofs"), reason="erofs-utils is not installed")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-zlz4",), "features that are not known here|is compressed, which is not supported"),
        (("--chunksize=4096", "--blobdev=blob"), "features that are not known here|in another image"),
    ],
)
def test_what_mkfs_compresses_or_spreads_over_devices_is_refused(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "f").write_bytes(b"compressible" * 10_000)
    (tmp_path / "blob").touch()
    subprocess.run(["mkfs.erofs", *options, "image", "root"], check=True, capture_output=True)
    with pytest.raises(RootfsError, match=message):
        describe(erofs.read(tmp_path / "image"))


def timeless(node, known):
    if isinstance(node, Directory):
        children = {name: timeless(child, known) for name, child in node.children.items()}
        return Directory(meta=replace(node.meta, mtime_ns=0), children=children)
    return known.setdefault(id(node), replace(node, meta=replace(node.meta, mtime_ns=0)))
