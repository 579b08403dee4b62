import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading

import pytest
from hypothesis import HealthCheck, given, settings

from archives import archive, member
from firekiln.errors import RootfsError
from firekiln.rootfs import tar
from firekiln.rootfs.compare import differences
from firekiln.rootfs.lookup import get
from firekiln.rootfs.merge import squash
from firekiln.rootfs.tree import Device, Directory, Fifo, File, Meta, Socket, Symlink, Whiteout, walk
from trees import file, folder, link, sparse, trees

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

many = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def paths(tree):
    return [path for path, _ in walk(tree)]


def write(tree, path):
    with path.open("wb") as out:
        return tar.write(tree, out.fileno())


@many
@given(trees(sockets=False))
def test_any_tree_comes_back_equal(tmp_path, tree):
    written = write(tree, tmp_path / "a.tar")
    back = tar.read(tmp_path / "a.tar", whiteouts=True)
    assert list(differences(squash([tree]), back)) == []
    assert written.digest == tar.digest(tree)
    assert written.size == (tmp_path / "a.tar").stat().st_size


@many
@given(trees(whiteouts=False, sockets=False))
def test_other_readers_find_the_same_members(tmp_path, tree):
    write(tree, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar", errors="surrogateescape") as found:
        for info in found:
            node = get(tree, os.fsencode(info.name))
            assert (info.mode, info.uid, info.gid) == (node.meta.mode, node.meta.uid, node.meta.gid)
            if isinstance(node, File) and info.isreg() and node.size < 1 << 20:
                assert found.extractfile(info).read() == node.read()


def test_the_order_in_which_directories_were_filled_does_not_show():
    one = folder({b"a": file(b"1"), b"b": folder({b"x": file(), b"y": file()})})
    two = folder({b"b": folder({b"y": file(), b"x": file()}), b"a": file(b"1")})
    assert tar.digest(one) == tar.digest(two)


def test_sockets_are_left_out():
    assert tar.digest(folder({b"s": Socket(meta=Meta(mode=0))})) == tar.digest(folder())


def test_a_name_that_looks_like_a_whiteout_is_refused():
    with pytest.raises(RootfsError, match=r"/d/\.wh\.x"):
        tar.digest(folder({b"d": folder({b".wh.x": file()})}))


def test_a_record_states_its_own_length(tmp_path):
    for length in (*range(80, 110), *range(980, 1010)):
        tree = folder({b"l": link(b"t" * length)})
        write(tree, tmp_path / "a.tar")
        assert get(tar.read(tmp_path / "a.tar"), b"l").target == b"t" * length


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_dialect_is_read(tmp_path, form):
    names = ["short", "d/" + "n" * 99, "p" * 90 + "/" + "q" * 90]
    if form != tarfile.USTAR_FORMAT:
        names += ["x" * 255, "/".join("y" * 200 for _ in range(10))]
    members = [(member(name, mtime=1_700_000_000, uid=7, gid=8, mode=0o4755), name.encode()) for name in names]
    tree = tar.read(archive(tmp_path / "a.tar", *members, form=form))
    for name in names:
        node = get(tree, name.encode())
        assert node.read() == name.encode()
        assert node.meta == Meta(mode=0o4755, uid=7, gid=8, mtime_ns=1_700_000_000 * 10**9)


def test_every_kind_of_member_is_read(tmp_path):
    path = archive(
        tmp_path / "a.tar",
        member("d/", tarfile.DIRTYPE, mode=0o750),
        ("d/f", b"1"),
        member("d/h", tarfile.LNKTYPE, linkname="d/f"),
        member("l", tarfile.SYMTYPE, linkname="/d/f"),
        member("c", tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("b", tarfile.BLKTYPE, devmajor=8, devminor=300),
        member("p", tarfile.FIFOTYPE),
        member("./", tarfile.DIRTYPE, mode=0o711),
    )
    tree = tar.read(path)
    assert tree.meta.mode == 0o711
    assert get(tree, b"d").meta.mode == 0o750
    assert get(tree, b"d/h") is get(tree, b"d/f")
    assert isinstance(get(tree, b"l"), Symlink)
    assert [(node.block, node.major, node.minor) for node in (get(tree, b"c"), get(tree, b"b"))] == [
        (False, 1, 3),
        (True, 8, 300),
    ]
    assert isinstance(get(tree, b"c"), Device)
    assert isinstance(get(tree, b"p"), Fifo)


def test_pax_carries_times_sizes_owners_and_xattrs(tmp_path):
    headers = {"mtime": "-1.5", "uid": "4294967294", "SCHILY.xattr.user.a": "v", "LIBARCHIVE.xattr.user.b%20": "dg"}
    node = get(tar.read(archive(tmp_path / "a.tar", member("f", pax_headers=headers))), b"f")
    assert node.meta.mtime_ns == -1_500_000_000
    assert node.meta.uid == 4294967294
    assert node.meta.xattrs == ((b"user.a", b"v"), (b"user.b ", b"v"))


@pytest.mark.parametrize("name", [b"user.a", b"user.a=b", b"user.%3D", b"user.\xff="])
@pytest.mark.parametrize("value", [b"", b"v", b"=\n\0", b"\xff" * 300])
def test_xattrs_of_any_name_and_value_come_back(tmp_path, name, value):
    write(folder({b"f": File.of(b"1", Meta(mode=0o644, xattrs=((name, value),)))}), tmp_path / "a.tar")
    assert get(tar.read(tmp_path / "a.tar"), b"f").meta.xattrs == ((name, value),)


def test_xattrs_that_no_reader_of_layers_would_take_are_refused(tmp_path):
    xattrs = tuple((b"user.%02d" % number, b"v" * 65_536) for number in range(16))
    with pytest.raises(RootfsError, match=r"/f: its extended header takes \d+ bytes"):
        tar.digest(folder({b"f": File.of(b"1", Meta(mode=0o644, xattrs=xattrs))}))


def test_notes_of_overlayfs_in_an_archive_are_dropped(tmp_path):
    headers = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.opaque": "y"}
    tree = tar.read(archive(tmp_path / "a.tar", member("d", tarfile.DIRTYPE, pax_headers=headers)), whiteouts=True)
    assert tree.children[b"d"].meta.xattrs == ()
    assert not tree.children[b"d"].opaque


PAX_SPARSE = [("--format=pax", f"--sparse-version={version}") for version in ("0.0", "0.1", "1.0")]


@pytest.mark.parametrize("options", [("--format=gnu",), *PAX_SPARSE])
def test_sparse_files_of_gnu_tar_keep_their_holes(tmp_path, options):
    size = 40 << 20
    with (tmp_path / "s").open("wb") as out:
        for number in range(30):
            out.seek(number << 20)
            out.write(b"%d" % number * 2000)
        out.truncate(size)
    (tmp_path / "after").write_bytes(b"next")
    subprocess.run(["tar", "-S", *options, "-cf", "a.tar", "s", "after"], cwd=tmp_path, check=True)
    tree = tar.read(tmp_path / "a.tar")
    assert paths(tree) == [b"after", b"s"]
    assert get(tree, b"after").read() == b"next"
    assert get(tree, b"s").read() == (tmp_path / "s").read_bytes()
    assert len(get(tree, b"s").extents) >= 30


COMPRESSORS = {"gzip": gzip.compress, "xz": lzma.compress, "bzip2": bz2.compress, "zstd": zstd.compress}


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_compressed_archives_lie_decompressed_in_the_spool(tmp_path, kind):
    plain = archive(tmp_path / "a.tar", ("f", b"content" * 100_000)).read_bytes()
    (tmp_path / "a.tar.x").write_bytes(COMPRESSORS[kind](plain))
    tree = tar.read(tmp_path / "a.tar.x", spool=tmp_path / "spool")
    assert get(tree, b"f").read() == b"content" * 100_000
    assert (tmp_path / "spool").read_bytes() == plain


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_several_gzip_members_or_zstd_frames_are_one_stream(tmp_path, compress):
    plain = archive(tmp_path / "a.tar", ("f", os.urandom(1_000_000))).read_bytes()
    joined = io.BytesIO(compress(plain[:50_000]) + compress(b"") + compress(plain[50_000:]))
    tar.read(joined, spool=tmp_path / "spool")
    assert (tmp_path / "spool").read_bytes() == plain


def test_a_full_disk_ends_the_reading_of_a_stream(tmp_path):
    plain = io.BytesIO(archive(tmp_path / "a.tar", ("f", bytes(20_000_000))).read_bytes())
    with pytest.raises(OSError, match="No space left") as caught:
        tar.read(plain, spool="/dev/full")
    assert caught.value.errno == errno.ENOSPC
    assert plain.tell() < len(plain.getvalue())
    assert not [thread for thread in threading.enumerate() if thread.name == "spool"]


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_damaged_stream_is_one_clear_error(tmp_path, kind):
    data = COMPRESSORS[kind](archive(tmp_path / "a.tar", ("f", os.urandom(100_000))).read_bytes())
    cut, changed = data[: len(data) // 2], data[:2000] + b"damage" * 20 + data[2120:]
    for broken in (cut,) if kind == "zstd" else (cut, changed):  # zstd has no checksum unless asked for
        with pytest.raises(RootfsError, match=f"blob: the {kind} stream is damaged or cut off"):
            tar.read(io.BytesIO(broken), spool=tmp_path / "spool", name="blob")


def test_members_and_implied_directories_are_counted(tmp_path):
    path = archive(tmp_path / "a.tar", "/".join("a" * 100))
    with pytest.raises(RootfsError, match="more than 50 members"):
        tar.read(path, limits=tar.Limits(members=50))


def test_whiteouts_of_a_layer_become_whiteouts_of_the_tree(tmp_path):
    names = ["d/.wh.gone", "e/.wh..wh..opq", "e/new", ".wh..wh.plnk/7.8"]
    layer = tar.read(archive(tmp_path / "a.tar", *names), whiteouts=True)
    assert paths(layer) == [b"d", b"d/gone", b"e", b"e/new"]
    assert isinstance(get(layer, b"d/gone"), Whiteout)
    assert layer.children[b"e"].opaque


def test_an_opaque_root_hides_everything_below(tmp_path):
    assert tar.read(archive(tmp_path / "a.tar", ".wh..wh..opq"), whiteouts=True).opaque


def test_an_archive_that_is_no_layer_may_have_names_like_whiteouts(tmp_path):
    assert paths(tar.read(archive(tmp_path / "a.tar", ".wh.x"))) == [b".wh.x"]


@pytest.mark.parametrize("order", [("d/.wh.x", "d/x/y"), ("d/x/y", "d/.wh.x")])
def test_a_whiteout_hides_the_layers_below_and_never_its_own(tmp_path, order):
    layer = tar.read(archive(tmp_path / "a.tar", *order), whiteouts=True)
    assert paths(layer) == [b"d", b"d/x", b"d/x/y"]
    assert get(layer, b"d/x").opaque


@pytest.mark.parametrize(
    ("name", "found"),
    [("../../etc/x", b"etc/x"), ("/abs/x", b"abs/x"), ("a/../../b", b"b"), ("./a//b/.", b"a/b"), ("a/..", None)],
)
def test_no_name_leads_out_of_the_root(tmp_path, name, found):
    tree = tar.read(archive(tmp_path / "a.tar", (name, b"1")))
    assert paths(tree)[-1:] == ([found] if found else [])


def test_links_lead_within_the_root(tmp_path):
    path = archive(
        tmp_path / "a.tar",
        member("out", tarfile.SYMTYPE, linkname="../../.."),
        member("abs", tarfile.SYMTYPE, linkname="/real"),
        ("out/one", b"1"),
        ("abs/two", b"2"),
        member("hard", tarfile.LNKTYPE, linkname="out/../abs/two"),
        member("hard2", tarfile.LNKTYPE, linkname="/abs/two"),
    )
    tree = tar.read(path)
    assert get(tree, b"one").read() == b"1"
    assert get(tree, b"real/two").read() == b"2"
    assert get(tree, b"hard2") is get(tree, b"real/two")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("h", tarfile.LNKTYPE, linkname="../../etc/passwd")], "/h: a hard link to '../../etc/passwd'"),
        ([member("h", tarfile.LNKTYPE, linkname="later"), ("later", b"1")], "/h: a hard link to 'later'"),
        ([member("d", tarfile.DIRTYPE), member("h", tarfile.LNKTYPE, linkname="d")], "/h: a hard link to 'd'"),
        ([("f", b"1"), ("f/x", b"2")], "/f/x: 'f' is no directory"),
        ([member("l", tarfile.SYMTYPE, linkname="l"), ("l/x", b"1")], "/l/x: /l: too many levels"),
        ([member("x", b"M")], "/x: members of type 'M' are not supported"),
        ([member("x", pax_headers={"size": "-1"})], "malformed at byte 0 .*is no number"),
        ([member("x", pax_headers={"uid": "4294967296"})], "/x: owner 4294967296:0 is out of range"),
        ([member("x", pax_headers={"size": "9999"})], "malformed at byte 0 .it is cut off"),
        (["/".join("a" * 3000)], "/a/a.*: a path of 5999 bytes"),
        ([member("l", tarfile.SYMTYPE, linkname="")], "/l: a symbolic link to nothing"),
        (
            [member("s", pax_headers={"GNU.sparse.map": "0,9223372036854775807", "GNU.sparse.size": "1"})],
            "sparse file and its pieces disagree",
        ),
        (
            [(member("s", pax_headers={"GNU.sparse.map": "4,2,0,2", "GNU.sparse.size": "9"}), b"1234")],
            "pieces of a sparse file overlap",
        ),
    ],
)
def test_what_no_file_system_can_hold_is_a_clear_error(tmp_path, members, message):
    with pytest.raises(RootfsError, match=f"a.tar: .*{message}"):
        tar.read(archive(tmp_path / "a.tar", *members))


@pytest.mark.parametrize("data", [b"no archive at all" * 100, b"short", b"\1" * 512])
def test_what_is_no_archive_is_said_to_be_none(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    assert not tar.is_archive(tmp_path / "a.tar")
    with pytest.raises(RootfsError, match="malformed at byte 0"):
        tar.read(tmp_path / "a.tar")


def test_an_archive_is_known_by_its_content(tmp_path):
    path = archive(tmp_path / "a", ("f", b"1"))
    assert tar.is_archive(path)
    (tmp_path / "b").write_bytes(gzip.compress(path.read_bytes()))
    assert tar.is_archive(tmp_path / "b")
    (tmp_path / "c").write_bytes(gzip.compress(b"text" * 1000))
    assert not tar.is_archive(tmp_path / "c")


def test_an_archive_cut_off_between_members_is_read_and_one_cut_within_is_not(tmp_path):
    data = archive(tmp_path / "a.tar", ("f", b"1" * 1000), ("g", b"2")).read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: 512 + 1024])
    assert paths(tar.read(tmp_path / "a.tar")) == [b"f"]
    (tmp_path / "a.tar").write_bytes(data[:900])
    with pytest.raises(RootfsError, match="cut off"):
        tar.read(tmp_path / "a.tar")


def test_later_members_replace_earlier_ones(tmp_path):
    path = archive(
        tmp_path / "a.tar",
        ("d/f", b"1"),
        member("h", tarfile.LNKTYPE, linkname="d/f"),
        ("d/f", b"2"),
        member("d", tarfile.DIRTYPE, mode=0o700),
        ("x/deep", b""),
        ("x", b"file"),
    )
    tree = tar.read(path)
    assert (get(tree, b"d/f").read(), get(tree, b"h").read(), get(tree, b"x").read()) == (b"2", b"1", b"file")
    assert tree.children[b"d"].meta.mode == 0o700


def test_implied_directories_are_as_they_are_below(tmp_path):
    below = folder({b"tmp": folder(mode=0o1777), b"etc": Directory(meta=Meta(mode=0o700, uid=3))}, mode=0o711)
    tree = tar.read(archive(tmp_path / "a.tar", "tmp/x", "etc/ssl/y"), below=below)
    assert [tree.meta.mode, get(tree, b"tmp").meta.mode] == [0o711, 0o1777]
    assert get(tree, b"etc").meta == Meta(mode=0o700, uid=3)
    assert get(tree, b"etc/ssl").meta.mode == 0o755


def test_files_need_no_room_but_the_archives_own(tmp_path):
    path = archive(tmp_path / "a.tar", ("f", b"1" * 10_000))
    extent = get(tar.read(path), b"f").extents[0]
    assert extent.source.path == str(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar"]


def test_reading_a_stream_needs_a_spool(tmp_path):
    with pytest.raises(ValueError, match="needs a file to lie in"):
        tar.read(io.BytesIO(b""))


def test_gnu_tar_unpacks_what_we_write(tmp_path):
    tree = folder({b"d": folder({b"f": file(b"1", mode=0o751)}), b"l": link(b"d/f"), b"s": sparse(9000, {5000: b"x"})})
    write(tree, tmp_path / "a.tar")
    (tmp_path / "out").mkdir()
    program = shutil.which("tar") or pytest.skip("tar is not installed")
    done = subprocess.run(
        [program, "-xpf", tmp_path / "a.tar", "-C", tmp_path / "out"], check=True, capture_output=True
    )
    assert done.stderr == b""
    assert stat.S_IMODE((tmp_path / "out/d/f").stat().st_mode) == 0o751
    assert (tmp_path / "out/s").read_bytes() == bytes(5000) + b"x" + bytes(3999)
