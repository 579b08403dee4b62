"""The small languages of COPY: modes, wildcards, owners."""

from __future__ import annotations

import pytest

from copying import file, link, tree
from firekiln.build.graph import Owner
from firekiln.build.ops import glob, mode
from firekiln.build.ops.owner import Ids, ids
from firekiln.errors import BuildError


@pytest.mark.parametrize(
    ("expression", "before", "directory", "after"),
    [
        (0o644, 0o4755, False, 0o644),
        ("0644", 0o755, False, 0o644),
        ("4711", 0, False, 0o4711),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, True, 0o755),
        ("u=rwX,go=rX", 0o010, False, 0o755),
        ("+x", 0o644, False, 0o755),
        ("a+X", 0o644, False, 0o644),
        ("a-x,a+X", 0o755, False, 0o755),
        ("go-rwx", 0o777, False, 0o700),
        ("u+s", 0o755, False, 0o4755),
        ("g+s,o+t", 0o755, True, 0o2755),
        ("+t", 0o777, True, 0o1777),
        ("u=rw", 0o4755, False, 0o655),
        ("=r", 0o7777, False, 0o1444),
        ("g=u", 0o740, False, 0o770),
        ("o=g-w", 0o770, False, 0o775),
        ("u+r-w+x", 0o200, False, 0o500),
    ],
)
def test_chmod_expressions(expression, before, directory, after):
    assert oct(mode.parse(expression)(before, directory)) == oct(after)


@pytest.mark.parametrize("expression", ["", "u", "u=q", "8", "u=r,", "77777", 0o10000, -1])
def test_what_is_no_mode_is_refused(expression):
    with pytest.raises(BuildError, match="invalid chmod parameter"):
        mode.parse(expression)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*", "", True),
        ("*", ".hidden", True),
        ("a*b", "a\nb", True),
        ("a?c", "abc", True),
        ("?", "ä", True),
        ("[a-c]", "b", True),
        ("[^a-c]", "b", False),
        ("[^a-c]", "d", True),
        ("[!a]", "!", True),
        ("[!a]", "b", False),
        ("[]a]", "a", None),
        ("[-x]", "x", None),
        ("[x-]", "x", None),
        ("[a", "a", None),
        ("[c-a]", "b", False),
        ("[\\]a]", "]", True),
        ("[\\-x]", "-", True),
        ("\\*", "*", True),
        ("\\*", "a", False),
        ("a\\", "a", None),
        ("**", "anything", True),
        ("a.c", "abc", False),
        ("{a,b}", "a", False),
    ],
)
def test_wildcards_are_gos(pattern, name, matches):
    if matches is None:
        with pytest.raises(ValueError, match="syntax error in pattern"):
            glob.compile_name(pattern)
    else:
        assert bool(glob.compile_name(pattern).fullmatch(name)) is matches


@pytest.mark.parametrize(("path", "wild"), [("/a/*", True), ("a?", True), ("[", True), ("\\*", False), ("a.b", False)])
def test_what_counts_as_a_wildcard(path, wild):
    assert glob.has_wildcard(path) is wild


ROOT = tree(
    **{
        "etc/passwd": link("../real/passwd"),
        "real/passwd": file(b"root:x:0:0\n\n bob:x:7:8::/:/bin/sh\nodd:x:abc\nhuge:x:99999999999:4294967295:\n"),
        "etc/group": file(b"grp:x:9:bob\n"),
    }
)


@pytest.mark.parametrize(
    ("user", "group", "uid", "gid"),
    [
        ("bob", None, 7, 8),
        ("bob", "grp", 7, 9),
        ("bob", 5, 7, 5),
        (3, None, 3, 3),
        (3, "nope", 3, 3),
        (3, "grp", 3, 9),
        ("nope", None, 0, 0),
        ("nope", "grp", 0, 9),
        ("odd", None, 0, 0),
        ("huge", None, 0, 0),
    ],
)
def test_owners_are_looked_up_in_the_destination(user, group, uid, gid):
    assert ids(Owner(user=user, group=group), ROOT) == Ids(uid=uid, gid=gid)


def test_without_passwd_every_name_is_unknown():
    assert ids(Owner(user="bob", group="grp"), tree(etc=file())) == Ids(uid=0, gid=0)
