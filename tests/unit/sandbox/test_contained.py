import os
from pathlib import Path

import pytest

from firekiln.sandbox.contained import ensured, found


@pytest.fixture
def root(tmp_path):
    inside = tmp_path / "root"
    inside.mkdir()
    (tmp_path / "outside").mkdir()
    fd = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield inside, fd
    os.close(fd)


def test_missing_parts_are_made_below_the_root_only(root):
    path, fd = root
    (path / "up").symlink_to("../../outside")
    os.utime(path, ns=(0, 7))
    with ensured(fd, "/up/a/f", directory=False) as (_, stub):
        assert stub.made == ("outside", "outside/a", "outside/a/f")
        assert [row[0] for row in stub.above] == [""]
    assert (path / "outside/a/f").is_file()
    assert not list((path.parent / "outside").iterdir())
    assert path.stat().st_mtime_ns == 7, "the directory's times are the image's"


def test_what_is_there_is_left_alone(root):
    path, fd = root
    (path / "etc").mkdir()
    (path / "etc/hosts").write_text("x")
    with ensured(fd, "/etc/./hosts", directory=False) as (file_fd, stub):
        assert stub is None
        assert os.fstat(file_fd).st_size == 1


def test_an_absolute_link_starts_at_the_root(root):
    path, fd = root
    (path / "etc").mkdir()
    (path / "l").symlink_to("/etc")
    with found(fd, "l") as there:
        assert os.path.samestat(os.fstat(there), (path / "etc").stat())


def test_dots_stop_at_the_root(root):
    path, fd = root
    with found(fd, "../../../..") as there:
        assert os.path.samestat(os.fstat(there), path.stat())


def test_a_loop_of_links_is_an_error(root):
    path, fd = root
    (path / "a").symlink_to("b")
    (path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"), found(fd, "a"):
        pass


def test_nothing_is_made_below_a_file(root):
    path, fd = root
    (path / "f").touch()
    with pytest.raises(NotADirectoryError), ensured(fd, "f/x", directory=True):
        pass


def test_no_descriptor_is_left_open(root):
    path, fd = root
    (path / "a").symlink_to("d/e")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ensured(fd, "a/../../b", directory=True):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
