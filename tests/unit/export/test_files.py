"""Files without a name until they are whole, and what killed writers leave."""

import os
import signal
from pathlib import Path

import pytest

from firekiln.errors import ExportError
from firekiln.machine.export import files
from firekiln.machine.export.files import NewFiles, new_folder


@pytest.fixture(params=["without a name", "hidden"])
def kind(request, monkeypatch):
    """Both ways, the second as on a file system that has no O_TMPFILE."""
    if request.param == "hidden":
        monkeypatch.setattr(files, "_unnamed", lambda _: None)
    return request.param


def killed(work):
    """Run `work` in a child that kills itself at its end."""
    child = os.fork()
    if child == 0:
        work()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def write(folder, *, commit=True):
    with NewFiles() as new:
        new.add(folder / "x").write_bytes(b"whole")
        new.scratch(folder / "x").write_bytes(b"by the way")
        new.write(folder / "x.words", b"words")
        if commit:
            new.commit()
        else:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("kind")
def test_files_appear_whole_and_replace_what_was_there(tmp_path):
    (tmp_path / "x").write_text("old")
    write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.words"]
    assert (tmp_path / "x").read_text() == "whole"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_nothing_is_left_of_a_killed_export(tmp_path, kind):
    (tmp_path / "x").write_text("old")
    killed(lambda: write(tmp_path, commit=False))
    assert (tmp_path / "x").read_text() == "old"
    if kind == "hidden":
        assert len(list(tmp_path.iterdir())) == 4  # the next one removes them
        write(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.words"]
    else:
        assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_what_a_killed_writer_of_a_folder_left_is_removed_by_the_next(tmp_path):
    def work():
        with new_folder(tmp_path / "out") as fd:
            os.mkdir("deep", dir_fd=fd)
            os.kill(os.getpid(), signal.SIGKILL)

    killed(work)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.firekiln-")
    with new_folder(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_what_a_living_writer_has_under_way_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_unnamed", lambda _: None)
    with NewFiles() as first:
        path = first.add(tmp_path / "x")
        write(tmp_path)
        assert path.exists()
        path.write_bytes(b"later")
        first.commit()
    assert (tmp_path / "x").read_bytes() == b"later"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("kind")
def test_a_name_as_long_as_names_may_be_is_written(tmp_path):
    with NewFiles() as new:
        new.add(tmp_path / ("n" * 255)).write_bytes(b"1")
        new.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="permission denied"), NewFiles() as new:
        new.add(Path(tmp_path, "x"))
