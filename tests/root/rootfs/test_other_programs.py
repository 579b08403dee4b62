"""Any Tree as other programs unpack it for root, or our own writer of folders; archives that mean harm, too."""

import os
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from archives import CASES, holds
from firekiln.rootfs import cpio, directory, tar
from firekiln.rootfs.compare import describe, differences
from firekiln.rootfs.merge import merge
from firekiln.rootfs.tree import Directory, Socket, Symlink, Whiteout
from firekiln.sandbox.materialize import materialize
from trees import ACL, trees

pytestmark = pytest.mark.root

each = settings(max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
many = settings(each, max_examples=600)


@pytest.fixture
def memory(tmp_path):
    """A tmpfs, which has all kinds of nodes and attributes, and is quick."""
    with mounted(tmp_path / "memory") as path:
        yield path


@contextmanager
def mounted(path):
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@contextmanager
def unpacked(memory, argv, **options):
    """What a program unpacked into a new folder, as a Tree."""
    folder = memory / "out"
    folder.mkdir()
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, check=False, **options)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr
        with directory.opened(folder, xattrs=True) as seen:
            yield seen
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)


def as_folders_have_it(node, known, *, sockets=True):
    """With the permissions that an ACL says, since setting it sets them; without sockets if so asked."""
    meta = node.meta
    if ACL in dict(meta.xattrs).values():
        meta = replace(meta, mode=meta.mode & ~0o777 | 0o664)
    if isinstance(node, Directory):
        kept = {name: child for name, child in node.children.items() if sockets or not isinstance(child, Socket)}
        children = {name: as_folders_have_it(child, known, sockets=sockets) for name, child in kept.items()}
        return Directory(meta=meta, children=children)
    return known.setdefault(id(node), replace(node, meta=meta))


def check_gnu_tar(memory, tree):
    flat = as_folders_have_it(merge([tree]), {}, sockets=False)
    with (memory / "a.tar").open("wb") as out:
        tar.write(flat, out.fileno())
    options = [
        "--warning=no-timestamp",
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
        "-p",
        "--delay-directory-restore",
    ]
    with unpacked(memory, ["tar", *options, "-xf", memory / "a.tar"]) as seen:
        assert list(differences(flat, seen)) == []


@each
@given(trees(whiteouts=False))
def test_gnu_tar_unpacks_any_tree_as_it_was(memory, tree):
    check_gnu_tar(memory, tree)


@pytest.mark.slow
@many
@given(trees(whiteouts=False))
def test_gnu_tar_unpacks_many_trees_as_they_were(memory, tree):
    check_gnu_tar(memory, tree)


def as_cpio_has_it(node, known):
    """Whole seconds from 1970 to 2106 (as this kernel's tmpfs shows them) and no xattrs."""
    seconds = min(max(node.meta.mtime_ns // 10**9, 0), (1 << 31) - 1)
    meta = replace(node.meta, mtime_ns=seconds * 10**9, xattrs=())
    if isinstance(node, Directory):
        return Directory(meta=meta, children={n: as_cpio_has_it(c, known) for n, c in node.children.items()})
    return known.setdefault(id(node), replace(node, meta=meta))


def as_gnu_cpio_leaves_it(node):
    """Links and directories without their times, and each name of a link one of its own."""
    match node:
        case Directory():
            children = {name: as_gnu_cpio_leaves_it(child) for name, child in node.children.items()}
            return Directory(meta=replace(node.meta, mtime_ns=0), children=children)
        case Symlink():
            return replace(node, meta=replace(node.meta, mtime_ns=0))
        case _:
            return node


@each
@given(trees(whiteouts=False))
def test_gnu_cpio_unpacks_any_tree_as_it_was(memory, tree):
    flat = as_cpio_has_it(merge([tree]), {})
    cpio.write(flat, memory / "a.cpio")
    with (
        (memory / "a.cpio").open("rb") as archive,
        unpacked(memory, ["cpio", "-idm", "--quiet", "--no-absolute-filenames"], stdin=archive) as seen,
    ):
        seen.meta = flat.meta  # it leaves its own folder as it is
        assert list(differences(as_gnu_cpio_leaves_it(flat), as_gnu_cpio_leaves_it(seen))) == []


def check_folder(memory, tree):
    flat = as_folders_have_it(merge([tree]), {})
    folder = memory / "out"
    folder.mkdir()
    fd = os.open(folder, os.O_PATH)
    try:
        materialize(flat, fd)
        with directory.opened(folder, xattrs=True) as seen:
            assert list(differences(flat, seen)) == []
    finally:
        os.close(fd)
        subprocess.run(["rm", "-rf", folder], check=True)


@each
@given(trees())
def test_a_folder_holds_any_tree_as_it_was(memory, tree):
    check_folder(memory, tree)


@pytest.mark.slow
@many
@given(trees())
def test_folders_hold_many_trees_as_they_were(memory, tree):
    check_folder(memory, tree)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.refused and case.stored])
def test_a_hostile_archive_unpacked_by_root_stays_within_its_folder(memory, name):
    host = memory / "host"
    (host / "out").mkdir(parents=True)
    (host / "canary").write_bytes(b"alive")
    CASES[name].make(memory / "a.tar", host)
    before = describe(directory.read(host))
    tree = tar.read(memory / "a.tar", whiteouts=CASES[name].layer)
    fd = os.open(host / "out", os.O_PATH)
    try:
        materialize(merge([tree]), fd)
    finally:
        os.close(fd)
    with directory.opened(host, xattrs=True) as after:
        inside = after.children.pop(b"out")
        assert isinstance(inside, Directory)
        expected = CASES[name].holds.items()
        shown = {path: None if value is Whiteout else value for path, value in expected if not _about_layers(value)}
        holds(inside, shown)
        left = [entry for entry in before if entry.path == b"canary"]
        assert [entry for entry in describe(after) if entry.path] == left


def _about_layers(value):
    """Flags of a layer, which a folder has not."""
    return callable(value) and getattr(value, "__name__", "") == "_opaque"
