import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from firekiln.errors import RootfsError
from firekiln.rootfs import directory
from firekiln.rootfs.lookup import get
from firekiln.rootfs.tree import Directory, Fifo, Socket, Symlink, walk


def test_every_kind_of_node_is_read(tmp_path):
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "d" / "f").write_bytes(b"content")
    (tmp_path / "l").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "p", 0o600)
    parent = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{parent}/s")
    os.close(parent)
    os.utime(tmp_path / "d" / "f", ns=(0, 1_234_567_891_234_567_891))
    tree = directory.read(tmp_path)
    assert [path for path, _ in walk(tree)] == [b"d", b"d/f", b"l", b"p", b"s"]
    assert get(tree, b"d").meta.mode == 0o750
    assert get(tree, b"d/f").read() == b"content"
    assert get(tree, b"d/f").meta.mtime_ns == 1_234_567_891_234_567_891
    assert (get(tree, b"d/f").meta.uid, get(tree, b"d/f").meta.gid) == (os.getuid(), os.getgid())
    assert isinstance(get(tree, b"l"), Symlink)
    assert get(tree, b"l").target == b"/etc/passwd"
    assert isinstance(get(tree, b"p"), Fifo)
    assert isinstance(get(tree, b"s"), Socket)


def test_names_that_are_no_text_are_kept(tmp_path):
    (tmp_path / os.fsdecode(b"\xff\n")).mkdir()
    (tmp_path / os.fsdecode(b"\xff\n") / "x").write_bytes(b"1")
    assert get(directory.read(tmp_path), b"\xff\n/x").read() == b"1"


def test_hard_links_are_one_node_across_directories(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "d" / "b").hardlink_to(tmp_path / "a")
    tree = directory.read(tmp_path)
    assert get(tree, b"a") is get(tree, b"d/b")


def test_holes_are_not_content(tmp_path):
    with (tmp_path / "s").open("wb") as file:
        file.seek(10 << 20)
        file.write(b"end")
        file.truncate(20 << 20)
    sparse = get(directory.read(tmp_path), b"s")
    assert sparse.size == 20 << 20
    assert sum(extent.length for extent in sparse.extents) <= 1 << 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directory, "_SPARSE_FROM", 1 << 40)
        whole = get(directory.read(tmp_path), b"s")
    assert sparse.read() == whole.read()


def test_a_directory_is_read_only_when_it_is_looked_into(tmp_path):
    (tmp_path / "a").mkdir()
    tree = directory.read(tmp_path)
    inner = tree.children[b"a"]
    (tmp_path / "a" / "late").write_bytes(b"")
    assert list(inner.children) == [b"late"]


@pytest.mark.parametrize("secret", ["/etc/passwd", "../outside"])
def test_a_file_swapped_for_a_link_is_not_followed(tmp_path, secret):
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "f").write_bytes(b"mine")
    file = get(directory.read(tmp_path / "in"), b"f")
    (tmp_path / "in" / "f").unlink()
    (tmp_path / "in" / "f").symlink_to(secret)
    with pytest.raises(RootfsError, match=r"cannot read .*/in/f: it was replaced"):
        file.read()


def test_a_directory_swapped_for_a_link_is_not_followed(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_bytes(b"secret")
    (tmp_path / "in" / "d").mkdir(parents=True)
    (tmp_path / "in" / "d" / "f").write_bytes(b"mine")
    tree = directory.read(tmp_path / "in")
    file, unread = get(tree, b"d/f"), directory.read(tmp_path / "in").children[b"d"]
    (tmp_path / "in" / "d").rename(tmp_path / "in" / "old")
    (tmp_path / "in" / "d").symlink_to("../outside")
    with pytest.raises(RootfsError, match="it was replaced"):
        file.read()
    with pytest.raises(RootfsError, match="it was replaced"):
        _ = unread.children


def test_a_file_swapped_for_a_fifo_neither_blocks_nor_is_read(tmp_path):
    (tmp_path / "f").write_bytes(b"mine")
    file = get(directory.read(tmp_path), b"f")
    (tmp_path / "f").unlink()
    os.mkfifo(tmp_path / "f")
    with pytest.raises(RootfsError, match="it was replaced"):
        file.read()


def test_nothing_can_be_read_after_the_directory_was_closed(tmp_path):
    (tmp_path / "f").write_bytes(b"1")
    with directory.opened(tmp_path) as tree:
        file = get(tree, b"f")
        assert file.read() == b"1"
    with pytest.raises(RootfsError, match="was closed"):
        file.read()


def test_no_descriptor_is_left_behind(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"1")
    before = len(list(Path("/proc/self/fd").iterdir()))
    get(directory.read(tmp_path), b"d/f").read()
    with directory.opened_upper(tmp_path, user_xattrs=True) as tree:
        get(tree, b"d/f").read()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_missing_directory_is_one_clear_error(tmp_path):
    with pytest.raises(RootfsError, match=r"cannot read .*/none: No such file or directory"):
        directory.read(tmp_path / "none")
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(RootfsError, match=r"cannot read .*/f: Not a directory"):
        directory.read(tmp_path / "f")


def test_paths_beyond_path_max_are_read(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("n" * 200, dir_fd=fd)
        below = os.open("n" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    with os.fdopen(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "wb") as file:
        file.write(b"deep")
    os.close(fd)
    path, node = list(walk(directory.read(tmp_path)))[-1]
    assert len(path) > 6000
    assert node.read() == b"deep"


def test_xattrs_are_read_if_asked_for(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    try:
        os.setxattr(tmp_path / "f", "user.a", b"\0v")
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("no xattrs here")
        raise
    assert get(directory.read(tmp_path), b"f").meta.xattrs == ()
    assert get(directory.read(tmp_path, xattrs=True), b"f").meta.xattrs == ((b"user.a", b"\0v"),)


def test_an_upper_side_with_user_xattrs_shows_opaque_directories_and_no_notes(tmp_path):
    (tmp_path / "d").mkdir()
    try:
        os.setxattr(tmp_path / "d", "user.overlay.opaque", b"y")
        os.setxattr(tmp_path / "d", "user.overlay.origin", b"x")
        os.setxattr(tmp_path / "d", "user.mine", b"x")
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("no xattrs here")
        raise
    found = directory.read_upper(tmp_path, user_xattrs=True).children[b"d"]
    assert found.opaque
    assert found.meta.xattrs == ((b"user.mine", b"x"),)
    assert not directory.read_upper(tmp_path, user_xattrs=False).children[b"d"].opaque


def test_threads_that_look_at_once_see_the_same_nodes(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    tree, seen = directory.read(tmp_path), []
    threads = [threading.Thread(target=lambda: seen.append(tree.children)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found is tree.children for found in seen)
    assert all(isinstance(node, Directory) for node in tree.children.values())
