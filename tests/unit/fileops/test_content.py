"""Which changes of what is copied change its key, and which do not: the table of BuildKit's cache."""

from __future__ import annotations

from dataclasses import replace

import pytest

from copying import context, file, folder, link, meta, put, tree
from firekiln.build.graph import Copy
from firekiln.build.ops.content import content_digest, copy_key, path_key
from firekiln.errors import BuildError
from firekiln.rootfs.tree import Device, Directory, Extent, File, PathSource


def key(source, src="/d", **options):
    full = {"follow_symlink": True, "dir_copy_contents": True, "allow_wildcard": True, "allow_empty_wildcard": True}
    return copy_key(Copy(source=1, src=src, dest="/o", **(full | options)), source)


def changed(path, node, source=None):
    source = source or context()
    put(source, path, node)
    return source


def test_the_same_content_has_the_same_key():
    assert key(context()) == key(context())


@pytest.mark.parametrize(
    "source",
    [
        changed("d/sub/b", file(b"bb", 0o600, mtime_ns=5)),
        changed("f1", file(b"something else, not copied")),
        changed("new", file()),
        changed("d", Directory(meta=meta(0o700), children=context().children[b"d"].children)),
    ],
    ids=["mtime", "another file", "a new file elsewhere", "mode of the directory whose content is copied"],
)
def test_what_is_not_read_keeps_the_key(source):
    assert key(source) == key(context())


@pytest.mark.parametrize(
    "source",
    [
        changed("d/sub/b", file(b"bc", 0o600)),
        changed("d/sub/b", file(b"bb", 0o644)),
        changed("d/sub/b", file(b"bb", 0o600, uid=1)),
        changed("d/sub/b", file(b"bb", 0o600, xattrs=((b"security.capability", b"x"),))),
        changed("d/sub/new", file(b"")),
        changed("d/lna", link("b")),
        changed("d/hard", file(b"a")),
        changed("d/fifo", file(b"")),
        changed("d/sub", folder(0o755, b=file(b"bb", 0o600))),
    ],
    ids=["content", "mode", "owner", "xattr", "new file", "link", "hard link", "type", "mode of a directory"],
)
def test_what_is_read_changes_the_key(source):
    assert key(source) != key(context())


def test_the_device_number_is_part_of_the_key():
    one, other = (tree(n=Device(meta=meta(), block=False, major=1, minor=minor)) for minor in (3, 5))
    assert key(one, "/n") != key(other, "/n")


def test_excluded_files_are_not_read():
    gone = PathSource("/nowhere/at/all")
    source = changed("d/sub/b", File(meta=meta(), size=1, extents=(Extent(0, 1, gone, 0),)))
    assert key(source, exclude_patterns=("sub",)) == key(context(), exclude_patterns=("sub",))
    with pytest.raises(BuildError, match="cannot read /sub/b: No such file or directory"):
        key(source)


def test_include_patterns_leave_out_the_rest_but_not_the_way_there():
    include = {"src": "/", "include_patterns": ("d/sub/b",)}
    assert key(changed("f1", file(b"other")), **include) == key(context(), **include)
    other = context()
    other.children[b"d"].meta = replace(other.children[b"d"].meta, mode=0o700)
    assert key(other, **include) != key(context(), **include)


def test_excluding_everything_below_a_directory_is_not_excluding_the_directory():
    assert key(context(), exclude_patterns=("sub",)) != key(context(), exclude_patterns=("sub/*",))


def test_a_wildcards_key_knows_the_names():
    assert key(tree(a1=file(b"x")), "/a*") != key(tree(a2=file(b"x")), "/a*")
    assert key(tree(a1=file(b"x")), "/b*") == key(tree(), "/b*")


def test_a_link_is_read_as_what_it_leads_to():
    assert key(context(), "/lnf") != key(changed("f1", file(b"other")), "/lnf")


def test_names_and_contents_cannot_be_mistaken_for_one_another():
    assert content_digest(tree(a=file(b"bc"))) != content_digest(tree(ab=file(b"c")))
    assert content_digest(tree(a=link("bc"))) != content_digest(tree(ab=link("c")))


def test_a_hole_is_as_good_as_zeros():
    hole = File(meta=meta(), size=4)
    assert content_digest(tree(a=hole)) == content_digest(tree(a=file(bytes(4))))


def test_a_missing_source_has_no_key():
    with pytest.raises(BuildError, match='"/nope": not found'):
        key(context(), "/nope")
    with pytest.raises(BuildError, match='"/nope": not found'):
        path_key("/nope", context())


def test_the_key_of_a_path_is_that_of_what_lies_there():
    assert path_key("/d/sub", context()) == content_digest(context().children[b"d"].children[b"sub"])
    assert path_key("lnd", context()) == path_key("/d/", context())
    assert path_key("/", None) == content_digest(folder())
