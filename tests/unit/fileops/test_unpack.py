"""ADD of archives: what they are known by, and what they become."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile

import pytest

from copying import NOW, base, changes, describe, file, folder, link, tree
from firekiln.build.graph import Copy, FileOp, Owner
from firekiln.build.ops.fileop import apply
from firekiln.errors import BuildError
from firekiln.rootfs.tree import Extent, File, Meta, PathSource

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

THEN = 1234567890
DIR = {"type": tarfile.DIRTYPE, "mode": 0o750, "uid": 11, "gid": 12}


def member(name, data=b"", **header):
    info = tarfile.TarInfo(name)
    info.mtime = THEN
    for key, value in header.items():
        setattr(info, key, value)
    info.size = len(data)
    return info, data


def tar(*members, kind=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def symlink(name, target, **header):
    return member(name, type=tarfile.SYMTYPE, linkname=target, **header)


def hardlink(name, target, **header):
    return member(name, type=tarfile.LNKTYPE, linkname=target, **header)


TAR = tar(member("d", **DIR), member("d/f", b"f"), hardlink("d/h", "d/f"), symlink("d/l", "/etc/x"))


def unpacked(owner="11:12", file_owner="0:0", at="o"):
    return {
        f"{at}/d": f"d 0750 {owner} mt{THEN}",
        f"{at}/d/f": f"f 0644 {file_owner} 1 mt{THEN}",
        f"{at}/d/h": f"h 0644 {file_owner} ->{at}/d/f mt{THEN}",
        f"{at}/d/l": f"l 0777 {file_owner} ->/etc/x mt{THEN}",
    }


def new(path="o", owner="0:0"):
    return {path: f"d 0755 {owner} mt{NOW // 10**9}"}


def added(name, data, dest="/o", below=None, **options):
    below = below or base()
    options = {"follow_symlink": True, "dir_copy_contents": True, "allow_wildcard": True, "unpack": True} | options
    source = data if isinstance(data, File) else file(data)
    actions = (Copy(source=1, src="/" + name, dest=dest, **options),)
    diff = apply(FileOp(actions=actions), below, [None, tree(**{name: source})], now_ns=NOW)
    return changes(below, diff, mtimes=True)


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("t.tar", bytes),
        ("t.tgz", gzip.compress),
        ("t.bz2", bz2.compress),
        ("t.xz", lzma.compress),
        ("t.zst", zstd.compress),
        ("noext", gzip.compress),
        ("members", lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:])),
    ],
)
@pytest.mark.parametrize("dest", ["/o", "/o/"])
def test_an_archive_is_known_by_its_content(name, pack, dest):
    assert added(name, pack(TAR), dest) == new() | unpacked()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("plain.gz", gzip.compress(b"only text")),
        ("empty.tar.gz", b""),
        ("empty.gz", gzip.compress(b"")),
        ("zeros.tar", bytes(10240)),
        ("text.tar", b"no archive " * 100),
        ("cut.gz", gzip.compress(os.urandom(2000))[:100]),
        ("bad.bz2", b"BZh9" + bytes(100)),
        ("bad.xz", b"\xfd7zXZ\x00" + bytes(100)),
        ("bad.zst", b"\x28\xb5\x2f\xfd" + bytes(100)),
    ],
)
def test_what_is_no_archive_is_copied_as_it_is(name, data):
    assert added(name, data, "/o/") == new() | {f"o/{name}": f"f 0644 0:0 {len(data)} mt{THEN}"}


def test_chown_takes_the_place_of_every_owner():
    owner = Owner(user=5, group=6)
    assert added("t.tar", TAR, owner=owner) == new(owner="5:6") | unpacked("5:6", "5:6")


def test_chmod_says_nothing_of_an_archives_content():
    assert added("t.tar", TAR, mode=0o600) == new() | unpacked()


def test_an_existing_destination_is_left_as_it_is_but_for_its_time():
    assert added("t.tar", TAR, "/t") == new("t") | unpacked(at="t")


def test_without_unpack_an_archive_is_a_file():
    assert added("t.tar", TAR, "/o/", unpack=False) == new() | {"o/t.tar": f"f 0644 0:0 {len(TAR)} mt{THEN}"}


def test_two_archives_may_hold_the_same_names():
    packed = {"follow_symlink": True, "unpack": True, "dest": "/o/"}
    actions = tuple(Copy(source=1, src=f"/{name}", **packed) for name in ("t.tar", "t.tgz"))
    source = tree(**{"t.tar": file(TAR), "t.tgz": file(gzip.compress(TAR))})
    diff = apply(FileOp(actions=actions), base(), [None, source], now_ns=NOW)
    assert describe(diff, mtimes=True) == new() | unpacked()


def test_content_of_a_plain_tar_stays_where_it_is(tmp_path):
    path = tmp_path / "t.tar"
    path.write_bytes(b"before" + tar(member("f", b"content")))
    source = PathSource(str(path))
    size = path.stat().st_size - 6
    archive = File(meta=Meta(mode=0o644), size=size, extents=(Extent(0, size, source, 6),))
    diff = apply(
        FileOp(actions=(Copy(source=1, src="/t", dest="/", unpack=True),)), None, [None, tree(t=archive)], now_ns=NOW
    )
    got = diff.children[b"f"]
    assert got.extents[0].source is source
    assert got.read() == b"content"


def test_content_of_a_compressed_tar_is_read_back(tmp_path):
    source = tree(t=file(gzip.compress(tar(member("f", b"content" * 1000)))))
    action = Copy(source=1, src="/t", dest="/", unpack=True)
    diff = apply(FileOp(actions=(action,)), None, [None, source], now_ns=NOW, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert diff.children[b"f"].read() == b"content" * 1000


def test_what_comes_later_replaces_what_was_there():
    below = tree(**{"d/old": file(), "f": file(), "x": folder()})
    members = (member("d", b"now a file"), member("f", type=tarfile.DIRTYPE, mode=0o755), member("x", b"x"))
    got = added("t", tar(*members), "/", below=below)
    assert got == {
        "d": f"f 0644 0:0 10 mt{THEN}",
        "f": f"d 0755 0:0 mt{THEN}",
        "x": f"f 0644 0:0 1 mt{THEN}",
    }


def test_a_file_that_becomes_a_directory_again_does_not_show_the_old_one():
    below = tree(**{"d/old": file()})
    members = (member("d", b"file"), member("d", type=tarfile.DIRTYPE, mode=0o755), member("d/new", b"n"))
    diff = apply(
        FileOp(actions=(Copy(source=1, src="/t", dest="/", unpack=True),)),
        below,
        [None, tree(t=file(tar(*members)))],
        now_ns=NOW,
    )
    assert diff.children[b"d"].opaque
    assert list(diff.children[b"d"].children) == [b"new"]


def test_links_to_directories_are_followed_with_the_destination_for_root():
    below = tree(**{"o/usr/lib": folder(), "o/lib": link("usr/lib"), "o/abs": link("/usr"), "o/out": link("../../t")})
    members = (
        member("lib", type=tarfile.DIRTYPE, mode=0o755),
        member("lib/a", b"a"),
        member("abs/b", b"b"),
        member("out/c", b"c"),
    )
    got = added("t", tar(*members), below=below)
    assert {path for path, text in got.items() if text.startswith("f")} == {"o/usr/lib/a", "o/usr/b", "o/t/c"}


def test_a_link_to_a_file_is_replaced_not_followed():
    below = tree(**{"o/l": link("/etc/passwd"), "etc/passwd": file()})
    assert added("t", tar(member("l", b"l")), below=below) == new() | {"o/l": f"f 0644 0:0 1 mt{THEN}"}


def test_directories_that_the_archive_does_not_name_are_roots():
    got = added("t", tar(member("a/b/f", b"f", uid=3)), owner=Owner(user=5))
    assert got == new(owner="5:5") | new("o/a") | new("o/a/b") | {"o/a/b/f": f"f 0644 5:5 1 mt{THEN}"}


def test_a_hard_link_may_lead_to_a_file_of_the_base():
    got = added("t", tar(hardlink("b", "a", uid=9)), below=tree(**{"o/a": file(b"aa")}))
    assert got == new() | {"o/a": f"f 0644 9:0 2 mt{THEN}", "o/b": f"h 0644 9:0 ->o/a mt{THEN}"}


def test_a_hard_link_gives_its_metadata_to_all_its_names():
    got = added("t", tar(member("a", b"a"), hardlink("b", "a"), hardlink("c", "b", mode=0o600)))
    assert got == new() | {
        "o/a": f"f 0600 0:0 1 mt{THEN}",
        "o/b": f"h 0600 0:0 ->o/a mt{THEN}",
        "o/c": f"h 0600 0:0 ->o/a mt{THEN}",
    }


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((member("../x", b"x"),), "archive path '../x' is outside extraction root"),
        ((member("a/../../x", b"x"),), "is outside extraction root"),
        ((hardlink("b", "a"),), "link /o/a: no such file"),
        ((hardlink("b", "../../etc/passwd"),), "is outside extraction root"),
        ((member("f", b"f"), member("f/g", b"g")), "mkdir /o/f: not a directory"),
        ((member("f", uid=1 << 33),), "bad uid 8589934592 of 'f'"),
        ((member("f", gid=-1),), "bad gid -1 of 'f'"),
        ((member("f", pax_headers={"path": "a\0b"}),), "bad name in"),
        ((symlink("l", ""),), "bad name in 'l'"),
        ((member("?", type=b"Z"),), "unsupported tar entry"),
    ],
)
def test_an_archive_that_cannot_be_unpacked_is_an_error(members, message):
    with pytest.raises(BuildError, match=message):
        added("t", tar(*members))


def test_an_archive_that_ends_early_is_an_error():
    data = tar(member("f", b"f" * 5000))
    with pytest.raises(BuildError, match="an archive is damaged: unexpected end of data"):
        added("t", data[:2000])


def test_a_compressed_archive_that_ends_early_is_an_error():
    data = gzip.compress(tar(member("f", os.urandom(100_000))))
    with pytest.raises(BuildError, match="a compressed archive is damaged"):
        added("t", data[:50_000])


def test_an_archive_with_a_damaged_header_is_an_error():
    data = bytearray(tar(member("a", b"a"), member("b", b"b"), kind=tarfile.USTAR_FORMAT))
    data[1024 + 10] ^= 1
    with pytest.raises(BuildError, match="an archive is damaged: bad header at 1024"):
        added("t", bytes(data))


def test_an_archive_without_its_end_marker_is_accepted():
    assert len(added("t", tar(member("a", b"a" * 512), kind=tarfile.USTAR_FORMAT)[:1024])) == 2


def test_the_archives_own_root_says_nothing_of_the_destination():
    assert added("t", tar(member("./", type=tarfile.DIRTYPE, mode=0o700), member("./f", b"f"))) == new() | {
        "o/f": f"f 0644 0:0 1 mt{THEN}"
    }


def test_names_that_look_like_whiteouts_are_just_names():
    got = added("t", tar(member(".wh.passwd", b""), member("..x", b"")), "/etc")
    assert set(got) == {"etc", "etc/.wh.passwd", "etc/..x"}


def test_xattrs_times_and_names_of_pax_headers_are_kept_but_not_those_of_overlayfs():
    name = "ä" * 120
    pax = {
        "SCHILY.xattr.user.a": "1",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.redirect": "/x",
        "mtime": "1234567890.123456789",
    }
    source = tree(t=file(tar(member(name, b"x", pax_headers=pax))))
    action = Copy(source=1, src="/t", dest="/", unpack=True)
    got = apply(FileOp(actions=(action,)), None, [None, source], now_ns=NOW).children[name.encode()]
    assert got.meta.xattrs == ((b"user.a", b"1"),)
    assert got.meta.mtime_ns == 1234567890_123456789


def test_devices_and_fifos_are_made():
    members = (
        member("c", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("p", type=tarfile.FIFOTYPE),
    )
    assert {path: text[0] for path, text in added("t", tar(*members)).items()} == {"o": "d", "o/c": "?", "o/p": "?"}


def test_a_sparse_member_keeps_its_holes(tmp_path):
    with (tmp_path / "sparse").open("wb") as out:
        out.truncate(1 << 20)
        out.seek(512 << 10)
        out.write(b"middle")
    command = ["tar", "-C", str(tmp_path), "--sparse", "-cf", "-", "sparse"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    action = Copy(source=1, src="/t", dest="/", unpack=True)
    got = apply(FileOp(actions=(action,)), None, [None, tree(t=file(data))], now_ns=NOW).children[b"sparse"]
    assert sum(extent.length for extent in got.extents) < 64 << 10
    assert got.read() == bytes(512 << 10) + b"middle" + bytes((512 << 10) - 6)
