"""Where copies go, and that nothing in the way leads them elsewhere."""

from pathlib import Path

import pytest

from firekiln.cli.cp import split
from firekiln.errors import MachineError
from firekiln.machine.copying import Target, target
from firekiln.machine.unpack import unpack
from trees import file, folder, link


@pytest.mark.parametrize(
    ("source", "kind", "dest", "dest_kind", "expected"),
    [
        ("/a/f", "other", "/d", "directory", Target(into="/d", name="f")),
        ("/a/f", "other", "/d/g", "absent", Target(into="/d", name="g")),
        ("/a/f", "other", "/d/g", "other", Target(into="/d", name="g")),
        ("/a/f", "other", "g", "absent", Target(into=".", name="g")),
        ("/a/s", "directory", "/d", "directory", Target(into="/d", name="s")),
        ("/a/s/", "directory", "/d/", "directory", Target(into="/d/", name="s")),
        ("/a/s/.", "directory", "/d", "directory", Target(into="/d", name=None)),
        ("/a/s", "directory", "/d/n", "absent", Target(into="/d", name="n")),
        ("/a/s/.", "directory", "/d/n/", "absent", Target(into="/d", name="n")),
        ("/", "directory", "/d", "directory", Target(into="/d", name=None)),
    ],
)
def test_a_copy_goes_where_docker_puts_it(source, kind, dest, dest_kind, expected):
    assert target(source, kind, dest, dest_kind) == expected


@pytest.mark.parametrize(
    ("kind", "dest", "dest_kind", "words"),
    [
        ("directory", "/f", "other", "cannot copy directory"),
        ("other", "/f/", "other", "not a directory"),
        ("other", "/n/", "absent", "no such directory"),
    ],
)
def test_a_copy_that_makes_no_sense_is_refused(kind, dest, dest_kind, words):
    with pytest.raises(MachineError, match=words):
        target("/a/x", kind, dest, dest_kind)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("web:/etc", ("web", "/etc")),
        ("web:etc", ("web", "/etc")),
        ("./web:x", ("", "./web:x")),
        ("/a:b", ("", "/a:b")),
        ("plain", ("", "plain")),
        ("-", ("", "-")),
    ],
)
def test_a_machine_is_told_from_a_path_as_docker_does(word, parts):
    assert split(word) == parts


def test_links_in_the_way_of_a_copy_are_replaced_and_never_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_bytes(b"alive")
    into = tmp_path / "into"
    into.mkdir()
    (into / "file").symlink_to(outside / "canary")
    unpack(folder({b"file": file(b"new"), b"mode": file(b"", mode=0o4755)}), into, keep_owner=False)
    assert (into / "file").read_bytes() == b"new"
    assert not (into / "file").is_symlink()
    assert (into / "mode").stat().st_mode & 0o7777 == 0o755
    (into / "dir").symlink_to(outside)
    with pytest.raises(MachineError, match="cannot overwrite non-directory"):
        unpack(folder({b"dir": folder({b"canary": file(b"dead")})}), into, keep_owner=False)
    (into / "sub").mkdir()
    with pytest.raises(MachineError, match="cannot overwrite directory"):
        unpack(folder({b"sub": link(b"/")}), into, keep_owner=False)
    assert [*outside.iterdir()] == [outside / "canary"]
    assert (outside / "canary").read_bytes() == b"alive"


def test_directories_are_merged_and_links_kept(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()
    (tmp_path / "d").chmod(0o700)
    unpack(folder({b"d": folder({b"new": file(b"x" * 9000), b"l": link(b"../e")})}), tmp_path, keep_owner=False)
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["l", "new", "old"]
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "d" / "l").readlink() == Path("../e")
