"""Digests of context files remembered by stat(2): what is not read again, and what must be."""

from __future__ import annotations

import json
import os
import time

import pytest

from firekiln.build.context import LocalContext
from firekiln.build.graph import Copy
from firekiln.build.ops import filedigest, hashing
from firekiln.build.ops.content import copy_key
from firekiln.build.ops.filedigest import FileDigests
from firekiln.errors import RootfsError
from firekiln.rootfs import erofs

ALL = Copy(source=1, src="/", dest="/", dir_copy_contents=True)
LONG_AGO = time.time() - 3600


class Context:
    """A folder whose files were left alone for a while, and the memory of its builds. `read` are the files read."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder / "context"
        self.folder.mkdir()
        self.memory = folder / "memory"
        self.read = []
        real = filedigest.content_digest

        def content_digest(file, opened):
            self.read.append(os.fsdecode(file.extents[0].source.path))
            return real(file, opened)

        monkeypatch.setattr(filedigest, "content_digest", content_digest)

    def key(self, *, settled=True):
        """The key of a build that begins now; `settled`: long after the files were written."""
        self.read = []
        digests = FileDigests(self.memory)
        digests._began_ns += 10**10 * settled
        key = copy_key(ALL, LocalContext(path=self.folder).tree(), digests)
        digests.save()
        assert key == copy_key(ALL, LocalContext(path=self.folder).tree()), "what is remembered is what is read"
        return key

    @property
    def file(self):
        [file] = self.memory.iterdir()
        return file


@pytest.fixture
def context(tmp_path, monkeypatch):
    made = Context(tmp_path, monkeypatch)
    for name in ("a", "b"):
        (made.folder / name).write_text(f"content of {name}")
    return made


def test_a_file_is_read_once(context):
    first = context.key()
    assert context.read == ["a", "b"]
    assert context.key() == first
    assert context.read == []


def test_the_memory_s_time_says_when_it_was_last_of_use(context):
    context.key()
    os.utime(context.file, (0, 0))
    context.key()
    assert context.read == []
    assert context.file.stat().st_mtime > LONG_AGO


def content(path):
    path.write_text("CONTENT OF A")


def content_with_the_old_time(path):
    status = path.stat()
    path.write_text("CONTENT of a")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def another_file_in_its_place(path):
    other = path.with_name("other")
    other.write_text("CONTENT of a")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def time_alone(path):
    os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.mark.parametrize("change", [content, content_with_the_old_time, another_file_in_its_place, time_alone])
def test_a_file_that_may_have_changed_is_read_again_and_it_alone(context, change):
    first = context.key()
    change(context.folder / "a")
    assert (context.key() == first) is (change is time_alone)
    assert context.read == ["a"]


def test_a_file_written_just_before_is_not_trusted(context):
    """Within one tick of the clock a second write leaves the times as the first one set them."""
    context.key(settled=False)
    context.key()
    assert context.read == ["a", "b"]
    context.key()
    assert context.read == []


def test_times_of_whole_seconds_are_trusted_later(context):
    digests = FileDigests(context.memory)
    tree = LocalContext(path=context.folder).tree()
    [extent] = tree.children[b"a"].extents
    began = digests._began_ns
    for age_s, settled in ((1.0, False), (3.0, True)):
        moment = int(began / 10**9 - age_s) * 10**9
        object.__setattr__(extent.source, "mtime_ns", moment)
        object.__setattr__(extent.source, "ctime_ns", moment)
        assert digests._is_settled(extent.source) is settled


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 1, "files": 3}', '{"version": 2, "files": {}}', "\0\xff"]
)
def test_a_memory_that_is_damaged_costs_work_only(context, text):
    first = context.key()
    context.file.write_bytes(text.encode("latin-1"))
    assert context.key() == first
    assert context.read == ["a", "b"]


def test_entries_that_make_no_sense_are_read_again(context):
    first = context.key()
    document = json.loads(context.file.read_bytes())
    document["files"] = {"a": None, "b": [*document["files"]["b"][:5], "no digits"]}
    context.file.write_text(json.dumps(document))
    assert context.key() == first
    assert context.read == ["a", "b"]


def test_a_memory_that_cannot_be_written_is_no_error(context):
    context.memory.write_text("in the way")
    context.key()
    context.key()
    assert context.read == ["a", "b"]


def test_files_that_are_long_gone_are_forgotten(context, monkeypatch):
    context.key()
    monkeypatch.setattr(filedigest, "_SPARE", 1)
    for name in ("a", "b"):
        (context.folder / name).unlink()
    (context.folder / "c").write_text("c")
    context.key()
    context.key()
    (context.folder / "d").write_text("d")
    context.key()
    assert set(json.loads(context.file.read_bytes())["files"]) == {"a", "b", "c", "d"}
    monkeypatch.setattr(filedigest, "_SPARE", -2)
    (context.folder / "e").write_text("e")
    context.key()
    assert set(json.loads(context.file.read_bytes())["files"]) == {"c", "d", "e"}


def test_a_file_that_is_written_while_the_build_reads_it_ends_the_build(context, tmp_path):
    """Its old digest would stand for its new content."""
    tree = LocalContext(path=context.folder).tree()
    copy_key(ALL, tree, FileDigests(context.memory))
    (context.folder / "a").write_text("something else")
    with pytest.raises(RootfsError, match="it was changed while it was being read"):
        erofs.write(tree, tmp_path / "layer")


def test_a_log_that_grows_while_the_build_reads_it_is_taken_as_long_as_it_was(context, tmp_path):
    tree = LocalContext(path=context.folder).tree()
    tree.children[b"a"].extents  # noqa: B018 - it is looked at now
    with (context.folder / "a").open("a") as log:
        log.write(" before the key")
        log.flush()
        key = copy_key(ALL, tree, FileDigests(context.memory))
        log.write(" and behind it")
    erofs.write(tree, tmp_path / "layer")
    assert erofs.read(tmp_path / "layer").children[b"a"].read() == b"content of a"
    assert copy_key(ALL, erofs.read(tmp_path / "layer")) == key


def test_much_is_hashed_in_several_processes_to_the_same_digests(context, monkeypatch):
    monkeypatch.setattr(hashing, "_WORTHWHILE", 1e-9)
    monkeypatch.setattr(hashing.os, "sched_getaffinity", lambda _: {0, 1, 2})
    (context.folder / "sub").mkdir()
    for number in range(1, 51):
        (context.folder / "sub" / f"{number}\n \udcff").write_bytes(b"x" * number * 1000)
    with (context.folder / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"data")
    first = context.key()
    assert context.read == []
    monkeypatch.undo()
    assert context.key() == first


def test_a_file_that_another_process_finds_changed_is_left_to_the_caller(context, monkeypatch):
    monkeypatch.setattr(hashing, "_WORTHWHILE", 1e-9)
    tree = LocalContext(path=context.folder).tree()
    sources = {name: tree.children[name.encode()].extents[0].source for name in ("a", "b")}
    (context.folder / "a").write_text("something else")
    assert set(hashing.hash_in_processes(sources)) <= {"b"}
