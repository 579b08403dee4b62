"""The build context as COPY sees it: what an ignore file leaves out, and what of the host's metadata stays outside."""

from __future__ import annotations

import os
import socket

import pytest

from copying import describe, file, folder, link, meta, tree
from firekiln.build.context import LocalContext, TreeContext, without_ignored
from firekiln.build.graph import Copy
from firekiln.build.ops.content import content_digest, copy_key
from firekiln.dockerfile.ignore import IgnorePatterns, read_ignore
from firekiln.errors import BuildError, DockerfileError
from firekiln.rootfs.tree import Directory, Socket, Symlink, walk

ALL = "README.md .dockerignore .env Dockerfile a a/.env a/b a/b/c a/b/c/z.md a/b/keep.txt a/b/y.md a/x.md".split()
FILES = [name for name in ALL if name not in {"a", "a/b", "a/b/c"}]

IGNORED = [
    ("", ""),
    ("*.md", "README.md"),
    ("**/*.md", "README.md a/b/c/z.md a/b/y.md a/x.md"),
    ("**/*.md\n!a/b/y.md", "README.md a/b/c/z.md a/x.md"),
    ("a\n!a/b", "a/.env a/x.md"),
    ("a/b\n!a/b/keep.txt", "a/b/c a/b/c/z.md a/b/y.md"),
    ("*\n!a/**/*.txt", "README.md .dockerignore .env Dockerfile a/.env a/b/c a/b/c/z.md a/b/y.md a/x.md"),
    (".env", ".env"),
    ("**/.env\n # x\n#y", ".env a/.env"),
    ("Dockerfile\n.dockerignore", "Dockerfile .dockerignore"),
    ("/a/b/", "a/b a/b/c a/b/c/z.md a/b/keep.txt a/b/y.md"),
    ("a/../README.md", "README.md"),
    ("!README.md\n*.md", "README.md"),
    ("a\n!nothing/here", "a a/.env a/b a/b/c a/b/c/z.md a/b/keep.txt a/b/y.md a/x.md"),
]


@pytest.mark.parametrize(("ignore", "without"), IGNORED)
def test_an_ignore_file_leaves_out(ignore, without):
    got = without_ignored(tree(**{name: file() for name in FILES}), read_ignore(ignore))
    assert {path.decode() for path, _ in walk(got)} == set(ALL) - set(without.split())


def test_an_ignored_directory_is_not_even_read():
    def load():
        raise AssertionError("was read")

    source = Directory(meta=meta(0o755), children={b"x": Directory(meta=meta(0o755), load=load)})
    assert describe(without_ignored(source, IgnorePatterns(["x"]))) == {}


def test_a_directory_is_read_when_it_is_first_looked_into():
    def load():
        raise AssertionError("was read")

    source = Directory(meta=meta(0o755), children={b"x": Directory(meta=meta(0o755), load=load)})
    got = without_ignored(source, IgnorePatterns(["y"]))
    with pytest.raises(AssertionError):
        _ = got.children[b"x"].children


def test_owners_most_xattrs_and_sockets_of_the_host_stay_outside():
    kept = ((b"security.capability", b"c"), (b"user.a", b"b"))
    xattrs = (*kept, (b"security.selinux", b"label"), (b"system.posix_acl_access", b"acl"), (b"trusted.x", b"y"))
    source = folder(0o700, 5, 5, f=file(uid=7, gid=8, xattrs=xattrs), s=Socket(meta=meta()))
    got = without_ignored(source, IgnorePatterns([]))
    assert (got.meta.uid, got.meta.gid, got.meta.mode) == (0, 0, 0o700)
    assert list(got.children) == [b"f"]
    assert got.children[b"f"].meta == meta(xattrs=kept)


def test_the_owners_that_an_archive_names_stay():
    source = folder(0o700, 5, 5, f=file(uid=7, gid=8))
    got = TreeContext(files=source, ignore="other").tree()
    assert (got.meta.uid, got.children[b"f"].meta.uid, got.children[b"f"].meta.gid) == (5, 7, 8)


def test_hard_links_stay_together():
    shared = file()
    got = without_ignored(folder(a=shared, d=folder(b=shared)), IgnorePatterns([]))
    assert got.children[b"a"] is got.children[b"d"].children[b"b"]


def test_a_malformed_pattern_is_an_error_with_the_files_name(tmp_path):
    with pytest.raises(DockerfileError, match=r"sub/\.dockerignore"):
        LocalContext(path=tmp_path, ignore="[a-", ignore_file="sub/.dockerignore").tree()


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    (root / "d").mkdir(parents=True)
    (root / "d" / "f").write_bytes(b"content")
    (root / "d" / "f").chmod(0o640)
    (root / "out").symlink_to("/etc")
    (root / "skipped").write_bytes(b"")
    os.link(root / "d" / "f", root / "hard")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    return root


def test_a_folder_is_read_as_it_is_but_for_its_owner(project):
    got = LocalContext(path=project, ignore="skipped").tree()
    shown = describe(got)
    assert set(shown) == {"d", "d/f", "hard", "out"}
    assert shown["d/f"] == "f 0640 0:0 7"
    assert shown["hard"].startswith("h 0640 0:0")
    assert got.children[b"d"].children[b"f"].read() == b"content"
    assert got.children[b"d"].children[b"f"].meta.mtime_ns == (project / "d" / "f").stat().st_mtime_ns


def test_a_link_out_of_the_folder_leads_nowhere(project):
    got = LocalContext(path=project).tree()
    assert isinstance(got.children[b"out"], Symlink)
    with pytest.raises(BuildError, match='"/out/passwd": not found'):
        copy_key(Copy(source=1, src="/out/passwd", dest="/", follow_symlink=True), got)


def test_only_content_and_modes_of_a_context_are_in_its_digest(project):
    before = content_digest(LocalContext(path=project).tree())
    os.utime(project / "d" / "f", ns=(0, 0))
    if os.geteuid() == 0:
        os.chown(project / "d", 1234, 1234)
    assert content_digest(LocalContext(path=project).tree()) == before
    (project / "d" / "f").chmod(0o600)
    assert content_digest(LocalContext(path=project).tree()) != before


def test_a_context_that_is_no_folder_is_an_error(tmp_path):
    with pytest.raises(BuildError, match="is no directory"):
        LocalContext(path=tmp_path / "nope").tree()


def test_names_that_are_no_utf8_are_kept(tmp_path):
    name = b"\xff\xfe"
    (tmp_path / os.fsdecode(name)).touch()
    assert list(LocalContext(path=tmp_path, ignore="*.md").tree().children) == [name]


def test_links_in_a_tree_are_not_followed_by_the_ignore_file():
    got = without_ignored(tree(**{"l": link("d"), "d/f": file()}), read_ignore("l/f"))
    assert set(describe(got)) == {"l", "d", "d/f"}
