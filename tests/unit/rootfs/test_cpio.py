import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from firekiln.errors import RootfsError
from firekiln.rootfs import cpio
from firekiln.rootfs.compare import differences
from firekiln.rootfs.tree import Directory, Meta, Whiteout
from trees import file, folder, link, sparse, trees


def as_cpio_has_it(node, known):
    """Whole seconds from 1970 to 2106 and no xattrs."""
    seconds = min(max(node.meta.mtime_ns // 10**9, 0), (1 << 32) - 1)
    meta = replace(node.meta, mtime_ns=seconds * 10**9, xattrs=())
    if isinstance(node, Directory):
        return Directory(meta=meta, children={n: as_cpio_has_it(c, known) for n, c in node.children.items()})
    return known.setdefault(id(node), replace(node, meta=meta))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(trees(whiteouts=False))
def test_any_tree_comes_back_equal(tmp_path, tree):
    tree = as_cpio_has_it(tree, {})
    written = cpio.write(tree, tmp_path / "a.cpio")
    assert list(differences(tree, cpio.read(tmp_path / "a.cpio"))) == []
    assert written.size == (tmp_path / "a.cpio").stat().st_size


def test_the_order_in_which_directories_were_filled_does_not_show(tmp_path):
    one = folder({b"a": file(b"1"), b"b": folder({b"x": file(), b"y": file()})})
    two = folder({b"b": folder({b"y": file(), b"x": file()}), b"a": file(b"1")})
    assert cpio.write(one, tmp_path / "one") == cpio.write(two, tmp_path / "two")


def test_archives_one_after_the_other_are_one_tree(tmp_path):
    cpio.write(folder({b"a": file(b"1"), b"d": folder({b"x": file(b"2")})}), tmp_path / "one")
    cpio.write(folder({b"a": file(b"3"), b"d": folder({b"y": file(b"4")})}), tmp_path / "two")
    (tmp_path / "both").write_bytes((tmp_path / "one").read_bytes() + bytes(512) + (tmp_path / "two").read_bytes())
    tree = cpio.read(tmp_path / "both")
    assert tree.children[b"a"].read() == b"3"
    assert sorted(tree.children[b"d"].children) == [b"x", b"y"]


def test_whiteouts_and_xattrs_are_left_out(tmp_path):
    cpio.write(
        folder({b"w": Whiteout(), b"d": Directory(meta=Meta(mode=0o7, xattrs=((b"user.a", b"1"),)))}), tmp_path / "a"
    )
    tree = cpio.read(tmp_path / "a")
    assert sorted(tree.children) == [b"d"]
    assert tree.children[b"d"].meta == Meta(mode=0o7)


@pytest.mark.parametrize(
    "node", [sparse(1 << 32, {}), file(mtime_ns=-1), file(mtime_ns=(1 << 32) * 10**9), file(uid=1 << 32)]
)
def test_what_cpio_cannot_hold_is_refused_with_its_path(tmp_path, node):
    with pytest.raises(RootfsError, match="/d/f: its size, time or owner"):
        cpio.write(folder({b"d": folder({b"f": node})}), tmp_path / "a")


@pytest.mark.parametrize("data", [b"no archive", b"070701" + b"0" * 50, b"070701" + b"x" * 104])
def test_what_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(RootfsError, match="the cpio archive is malformed"):
        cpio.read(tmp_path / "a")


def test_gnu_cpio_lists_what_we_write(tmp_path):
    program = shutil.which("cpio") or pytest.skip("cpio is not installed")
    shared = file(b"12345")
    cpio.write(folder({b"d": folder({b"f": shared}), b"g": shared, b"l": link(b"d/f")}), tmp_path / "a")
    with (tmp_path / "a").open("rb") as archive:
        done = subprocess.run([program, "-t"], stdin=archive, capture_output=True, check=True)
    assert done.stdout.split() == [b".", b"d", b"d/f", b"g", b"l"]
