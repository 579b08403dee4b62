"""COPY's meaning, instruction by instruction: what BuildKit makes of each, on a context and a base of our own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from copying import NOW, THEN, base, changes, context, describe, file, folder, link, meta, of_d, tree
from firekiln.build.graph import Copy, FileOp, InlineFile, Mkdir, Owner
from firekiln.build.ops.fileop import apply
from firekiln.errors import BuildError
from firekiln.rootfs.merge import merge
from firekiln.rootfs.tree import Directory, File

FULL = {"follow_symlink": True, "dir_copy_contents": True, "allow_wildcard": True, "allow_empty_wildcard": True}
"""What the frontend sets on every COPY from a context or a stage."""


def copies(*sources, dest, **options):
    return tuple(Copy(source=1, src=source, dest=dest, **(FULL | options)) for source in sources)


def inline(*files, dest, **options):
    return tuple(Copy(source=InlineFile(name=n, data=d), src="/" + n, dest=dest, **options) for n, d in files)


def made(*actions, below=None, source=None, **op):
    """What the golden files show of `actions` on our base."""
    below, source = below or base(), source or context()
    diff = apply(FileOp(actions=actions, **op), below, [below, source], now_ns=NOW)
    return changes(below, diff)


BOB, NUMBER = Owner(user="bob"), Owner(user=5)
O = {"o": "d 0755 0:0"}  # noqa: E741 - the directory that most rows make is called o
F1, F2 = "f 0644 0:0 3", "f 4755 0:0 3"

TABLE = [
    ("COPY f1 /o", copies("/f1", dest="/o"), {"o": F1}),
    ("COPY f1 /o/", copies("/f1", dest="/o/"), O | {"o/f1": F1}),
    ("COPY f1 f2 /o/", copies("/f1", "/f2", dest="/o/"), O | {"o/f1": F1, "o/f2": F2}),
    ("COPY f1 f2 /o: the last one wins", copies("/f1", "/f2", dest="/o"), {"o": F2}),
    ("COPY d /o", copies("/d", dest="/o"), of_d("o")),
    ("COPY d/ /o/", copies("/d/", dest="/o/"), of_d("o")),
    ("COPY d/. /o", copies("/d/.", dest="/o"), of_d("o")),
    (
        "COPY ./d/* /o/: each match by itself, links followed, hard links apart",
        copies("/d/*", dest="/o/"),
        O
        | {
            "o/a": "f 0644 0:0 1",
            "o/b": "f 0600 0:0 2",
            "o/fifo": "? 0644 0:0",
            "o/hard": "f 0644 0:0 1",
            "o/lna": "f 0644 0:0 1",
        },
    ),
    (
        "COPY d d2 /o/: contents are united",
        copies("/d", "/d2", dest="/o/"),
        of_d("o", **{"/a": "f 0644 0:0 4", "/c": "f 0644 0:0 1", "/hard": "f 0644 0:0 1"}),
    ),
    ("COPY f1 /t/exist", copies("/f1", dest="/t/exist"), {"t/exist/f1": F1}),
    ("COPY d /t/exist: its mode stays", copies("/d", dest="/t/exist"), of_d("t/exist", **{"": ""})),
    ("COPY f1 /t/lnd: a link to a directory", copies("/f1", dest="/t/lnd"), {"t/real/f1": F1}),
    ("COPY f1 /t/lnd/", copies("/f1", dest="/t/lnd/"), {"t/real/f1": F1}),
    (
        "COPY d2 /t/lnd",
        copies("/d2", dest="/t/lnd"),
        {"t/real/a": "f 0644 0:0 4", "t/real/c": "f 0644 0:0 1"},
    ),
    (
        "COPY d2 /t/lnd/",
        copies("/d2", dest="/t/lnd/"),
        {"t/real/a": "f 0644 0:0 4", "t/real/c": "f 0644 0:0 1"},
    ),
    ("COPY f1 /t/lnf: a link to a file", copies("/f1", dest="/t/lnf"), {"t/file": F1}),
    ("COPY f1 /t/file", copies("/f1", dest="/t/file"), {"t/file": F1}),
    ("COPY lnf /o", copies("/lnf", dest="/o"), {"o": F1}),
    ("COPY lnd /o", copies("/lnd", dest="/o"), of_d("o")),
    ("COPY lnf lnd /o/: a link's own name", copies("/lnf", "/lnd", dest="/o/"), of_d("o", **{"/lnf": F1})),
    ("COPY nomatch* /o/: nothing at all", copies("/nomatch*", dest="/o/"), {}),
    ("COPY f? /o/", copies("/f?", dest="/o/"), O | {"o/f1": F1, "o/f2": F2}),
    ("COPY arr[[]0].txt /o/", copies("/arr[[]0].txt", dest="/o/"), O | {"o/arr[0].txt": "f 0644 0:0 1"}),
    ("COPY arr[0].txt /o/: a class", copies("/arr[0].txt", dest="/o/"), {}),
    ('COPY ["sp ace","/o/"]', copies("/sp ace", dest="/o/"), O | {"o/sp ace": "f 0644 0:0 1"}),
    ("COPY ../../f1 /o", copies("/../../f1", dest="/o"), {"o": F1}),
    ("COPY --chown=bob f1 /o", copies("/f1", dest="/o", owner=BOB), {"o": "f 0644 7:8 3"}),
    (
        "COPY --chown=bob:grp d /o/p",
        copies("/d", dest="/o/p", owner=Owner(user="bob", group="grp")),
        {"o": "d 0755 7:9"} | of_d("o/p", "7:9"),
    ),
    (
        "COPY --chown=5 f1 /n/m/o",
        copies("/f1", dest="/n/m/o", owner=NUMBER),
        {"n": "d 0755 5:5", "n/m": "d 0755 5:5", "n/m/o": "f 0644 5:5 3"},
    ),
    ("COPY --chown=zzz f1 /o", copies("/f1", dest="/o", owner=Owner(user="zzz")), {"o": F1}),
    (
        "COPY --chown=7:zz f1 /o",
        copies("/f1", dest="/o", owner=Owner(user=7, group="zz")),
        {"o": "f 0644 7:7 3"},
    ),
    (
        "COPY --chmod=0640 d /o: directories too",
        copies("/d", dest="/o", mode=0o640),
        {
            "o": "d 0640 0:0",
            "o/a": "f 0640 0:0 1",
            "o/fifo": "? 0640 0:0",
            "o/hard": "h 0640 0:0 ->o/a",
            "o/lna": "l 0777 0:0 ->a",
            "o/sub": "d 0640 0:0",
            "o/sub/b": "f 0640 0:0 2",
        },
    ),
    (
        "COPY --chmod=u=rwX,go=rX d /o",
        copies("/d", dest="/o", mode="u=rwX,go=rX"),
        of_d("o", **{"/sub": "d 0755 0:0", "/sub/b": "f 0644 0:0 2"}),
    ),
    (
        "COPY --parents d/sub/b f1 /o/",
        copies("/", dest="/o/", include_patterns=("d/sub/b",), required_paths=("/d/sub/b",))
        + copies("/", dest="/o/", include_patterns=("f1",), required_paths=("/f1",)),
        O | {"o/d": "d 2750 0:0", "o/d/sub": "d 0700 0:0", "o/d/sub/b": "f 0600 0:0 2", "o/f1": F1},
    ),
    (
        "COPY --parents ./d/./sub/* /o/",
        copies("/d", dest="/o/", include_patterns=("sub/*",)),
        O | {"o/sub": "d 0700 0:0", "o/sub/b": "f 0600 0:0 2"},
    ),
    (
        "COPY --parents **/a /o/",
        copies("/", dest="/o/", include_patterns=("**/a",)),
        O | {"o/d": "d 2750 0:0", "o/d/a": "f 0644 0:0 1", "o/d2": "d 0755 0:0", "o/d2/a": "f 0644 0:0 4"},
    ),
    (
        "COPY --exclude=sub --exclude=f* d /o/",
        copies("/d", dest="/o/", exclude_patterns=("sub", "f*")),
        of_d("o", **{"/sub": "", "/sub/b": "", "/fifo": ""}),
    ),
    ("COPY --exclude=**/b d /o/", copies("/d", dest="/o/", exclude_patterns=("**/b",)), of_d("o", **{"/sub/b": ""})),
    (
        "COPY --exclude=* --exclude=!sub d /o/",
        copies("/d", dest="/o/", exclude_patterns=("*", "!sub")),
        O | {"o/sub": "d 0700 0:0", "o/sub/b": "f 0600 0:0 2"},
    ),
    ("COPY empty /o", copies("/empty", dest="/o"), O),
    ("COPY empty /o/", copies("/empty", dest="/o/"), O),
    ("COPY <<f /o/", inline(("f", b"hi\n"), dest="/o/"), O | {"o/f": F1}),
    ("COPY <<f /o", inline(("f", b"hi\n"), dest="/o"), {"o": F1}),
    (
        "COPY --chmod=755 --chown=1:2 <<f <<g /o/",
        inline(("f", b"hi\n"), ("g", b"x\n"), dest="/o/", mode=0o755, owner=Owner(user=1, group=2)),
        {"o": "d 0755 1:2", "o/f": "f 0755 1:2 3", "o/g": "f 0755 1:2 2"},
    ),
    ("WORKDIR /t/lnd, COPY f1 x", (Mkdir(path="/t/lnd"), *copies("/f1", dest="/t/lnd/x")), {"t/real/x": F1}),
    (
        "WORKDIR /q, COPY f1 .",
        (Mkdir(path="/q"), *copies("/f1", dest="/q/")),
        {"q": "d 0755 0:0", "q/f1": F1},
    ),
    (
        "USER bob, COPY f1 /o, WORKDIR /home/bob/x",
        (*copies("/f1", dest="/o"), Mkdir(path="/home/bob/x", owner=BOB)),
        {"home": "d 0755 7:8", "home/bob": "d 0755 7:8", "home/bob/x": "d 0755 7:8", "o": F1},
    ),
    ("COPY d/sub /t", copies("/d/sub", dest="/t"), {"t/b": "f 0600 0:0 2"}),
    ("COPY f1 /bin: the same file again", copies("/f1", dest="/bin"), {}),
    ("COPY d/fifo /o", copies("/d/fifo", dest="/o"), {"o": "? 0644 0:0"}),
    ("COPY f1 /o/../p", copies("/f1", dest="/o/../p"), {"p": F1}),
    ('COPY f1 ""', copies("/f1", dest=""), {"f1": F1}),
    (
        "COPY d2/** /o/: no more than *",
        copies("/d2/**", dest="/o/"),
        O | {"o/a": "f 0644 0:0 4", "o/c": "f 0644 0:0 1"},
    ),
    (
        "ADD git … /o: a directory that is not there takes the source's mode",
        (Copy(source=1, src="/d/sub", dest="/o"),),
        {"o": "d 0700 0:0", "o/b": "f 0600 0:0 2"},
    ),
    (
        "ADD git … /t/exist: contents go into one that is, but under the source's name",
        (Copy(source=1, src="/d/sub", dest="/t/exist"),),
        {"t/exist/sub": "d 0700 0:0", "t/exist/sub/b": "f 0600 0:0 2"},
    ),
    ("without following, a link is copied", (Copy(source=1, src="/lnf", dest="/o"),), {"o": "l 0777 0:0 ->f1"}),
]


@pytest.mark.parametrize(("actions", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_copy_makes_what_buildkit_makes(actions, expected):
    assert made(*actions) == expected


@pytest.mark.parametrize(("mode", "parent"), [(0o640, "0640"), ("go=", "0700"), ("a-x", "0644")])
def test_chmod_is_for_the_parents_that_are_made_too(mode, parent):
    assert made(*copies("/f1", dest="/n/m/o", mode=mode))["n/m"] == f"d {parent} 0:0"


def test_copying_the_whole_context_keeps_links_as_they_are():
    shown = {"o/" + name: text.replace("->d/a", "->o/d/a") for name, text in describe(context()).items()}
    assert made(*copies("/", dest="/o")) == O | shown


@pytest.mark.parametrize(
    ("source", "missing"),
    [("/nomatch", "/nomatch"), ("/lnabs", "/lnabs"), ("/dang", "/dang"), ("/d/no/../x", "/d/x"), ("/dan*", "/dang")],
)
def test_a_missing_source_is_named_in_the_error(source, missing):
    with pytest.raises(BuildError, match=f'^"{missing}": not found$'):
        made(*copies(source, dest="/o"))


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (copies("/f1", dest="/t/file/"), "mkdir /t/file: not a directory"),
        (copies("/f1", dest="/t/file/x"), "mkdir /t/file: not a directory"),
        (copies("/d", dest="/t/file"), "cannot copy to non-directory: /t/file"),
        ((Mkdir(path="/t/lnf"),), "mkdir /t/file: not a directory"),
        (copies("/x/*", dest="/o"), "lstat /x: no such file or directory"),
        (copies("/f[", dest="/o"), '"/f[": syntax error in pattern'),
        (copies("/f1", dest="/o", mode="u=q"), 'invalid chmod parameter: "u=q"'),
        (copies("/", dest="/o", include_patterns=("x",), required_paths=("/x",)), '"/x": not found'),
        (copies("/x*", dest="/o", allow_empty_wildcard=False), "/x* not found"),
        (copies("/f1", dest="/n/o", create_dest_path=False), "failed to stat /n/o: no such file or directory"),
    ],
)
def test_what_cannot_be_copied_is_one_clear_error(actions, message):
    with pytest.raises(BuildError) as error:
        made(*actions)
    assert str(error.value) == message


def test_a_file_does_not_replace_a_directory():
    source = tree(**{"d/exist": file()})
    with pytest.raises(BuildError, match="cannot replace to directory /t/exist with file"):
        made(*copies("/d", dest="/t"), source=source)


def test_a_directory_does_not_follow_a_link_below_the_destination():
    source = tree(**{"d/lnd/x": file()})
    with pytest.raises(BuildError, match="cannot copy to non-directory: /t/lnd"):
        made(*copies("/d", dest="/t"), source=source)


def test_a_link_loop_at_the_destination_is_an_error():
    below = tree(a=link("b"), b=link("a"))
    with pytest.raises(Exception, match="too many levels"):
        made(*copies("/f1", dest="/a/x"), below=below)


def test_links_of_the_destination_stay_within_its_root():
    below = tree(**{"up": link("../../../../etc"), "etc/passwd": file()})
    assert made(*copies("/f1", dest="/up/"), below=below) == {"etc/f1": F1}


def test_a_directory_below_the_destination_takes_the_metadata_of_its_source():
    below = tree(**{"x/sub": folder(0o755, 3, 3, old=file())})
    source = tree(**{"d/sub": folder(0o700, 4, 4, new=file())})
    assert made(*copies("/d", dest="/x"), below=below, source=source) == {
        "x/sub": "d 0700 4:4",
        "x/sub/new": "f 0644 0:0 1",
    }


def test_a_parent_that_parents_only_passes_through_keeps_its_owner():
    below = tree(**{"x/sub": folder(0o755, 3, 3)})
    source = tree(sub=folder(0o700, 4, 4, new=file()))
    got = made(*copies("/", dest="/x", include_patterns=("sub/new",)), below=below, source=source)
    assert got == {"x/sub": "d 0700 3:3", "x/sub/new": "f 0644 0:0 1"}


def test_times_are_the_sources_and_those_of_new_directories_the_runs():
    diff = apply(FileOp(actions=copies("/f1", dest="/n/m/o")), base(), [None, context()], now_ns=NOW)
    shown = describe(diff, mtimes=True)
    assert shown["n"].endswith(f"mt{NOW // 10**9}")
    assert shown["n/m/o"].endswith(f"mt{THEN // 10**9}")


def test_the_destination_takes_the_time_of_the_directory_copied_into_it():
    source = Directory(meta=meta(0o700, mtime_ns=NOW + 5), children={b"a": file()})
    below = base()
    diff = apply(FileOp(actions=copies("/", dest="/t/exist")), below, [below, source], now_ns=NOW)
    exist = diff.children[b"t"].children[b"exist"]
    assert (exist.meta.mode, exist.meta.mtime_ns) == (0o1777, NOW + 5)


def test_the_diff_holds_only_what_changed_and_the_way_to_it():
    below = base()
    diff = apply(FileOp(actions=copies("/f1", dest="/t/exist/x")), below, [below, context()], now_ns=NOW)
    assert describe(diff, mtimes=True) == {
        "t": f"d 0755 0:0 mt{THEN // 10**9}",
        "t/exist": f"d 1777 0:0 mt{NOW // 10**9}",
        "t/exist/x": f"{F1} mt{THEN // 10**9}",
    }
    assert diff.meta == below.meta


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(copies("/f1", dest="/t/exist/"), id="a name comes"),
        pytest.param(copies("/f1", dest="/t/exist/new/sub/"), id="a directory comes"),
        pytest.param(copies("/f2", dest="/t/exist/old"), id="a file takes the place of another"),
        pytest.param((Mkdir(path="/t/exist/new"),), id="WORKDIR"),
    ],
)
def test_a_directory_whose_names_change_bears_the_time_of_the_run(action):
    below = tree(**{"t": folder(), "t/exist": folder(0o1777, 3, 3, old=file())})
    diff = apply(FileOp(actions=action), below, [below, context()], now_ns=NOW)
    assert diff.children[b"t"].meta == below.children[b"t"].meta
    exist = below.children[b"t"].children[b"exist"].meta
    assert diff.children[b"t"].children[b"exist"].meta == replace(exist, mtime_ns=NOW)


def test_directories_made_in_a_setgid_directory_inherit_its_group_and_the_bit():
    below = tree(sg=folder(0o2775, 3, 4))
    actions = (Mkdir(path="/sg/wd/sub"), *copies("/f1", dest="/sg/new/f"), *copies("/d2", dest="/sg/d"))
    got = made(*actions, *copies("/d2", dest="/sg/own", owner=NUMBER), below=below)
    assert {path: got[path] for path in got if path.count("/") == 1 or path == "sg/wd/sub"} == {
        "sg/wd": "d 2755 0:4",
        "sg/wd/sub": "d 2755 0:4",
        "sg/new": "d 2755 0:4",
        "sg/d": "d 2755 0:4",
        "sg/own": "d 2755 5:5",
    }


def test_an_operation_that_changes_nothing_makes_an_empty_diff():
    below = base()
    diff = apply(FileOp(actions=(Mkdir(path="/t/lnd"),)), below, [below], now_ns=NOW)
    assert describe(diff) == {}


def test_apply_leaves_base_and_inputs_as_they_were():
    below, source = base(), context()
    before = describe(below, mtimes=True), describe(source, mtimes=True)
    apply(FileOp(actions=copies("/d", dest="/t/exist", mode=0o600, owner=NUMBER)), below, [below, source], now_ns=NOW)
    assert (describe(below, mtimes=True), describe(source, mtimes=True)) == before


def test_xattrs_of_the_source_are_kept():
    capability = ((b"security.capability", b"\1"),)
    source = tree(ping=file(mode=0o755, xattrs=capability))
    diff = apply(FileOp(actions=copies("/ping", dest="/ping", owner=NUMBER)), None, [None, source], now_ns=NOW)
    assert diff.children[b"ping"].meta == meta(0o755, 5, 5, xattrs=capability)


def test_owners_of_a_stage_are_kept():
    source = tree(x=file(uid=1000, gid=1001))
    assert made(*copies("/x", dest="/o"), source=source) == {"o": "f 0644 1000:1001 1"}


def test_content_is_shared_not_copied():
    source = context()
    diff = apply(FileOp(actions=copies("/f1", dest="/o")), None, [None, source], now_ns=NOW)
    copied = diff.children[b"o"]
    assert isinstance(copied, File)
    assert copied.extents is source.children[b"f1"].extents
    assert copied is not source.children[b"f1"]


LINKED = [
    ("COPY --link f1 /t/lnd/x", copies("/f1", dest="/t/lnd/x"), {"t/lnd": "d 0755 0:0", "t/lnd/x": F1}),
    (
        "COPY --link d2 /t/exist",
        copies("/d2", dest="/t/exist"),
        {"t/exist": "d 0755 0:0", "t/exist/a": "f 0644 0:0 4", "t/exist/c": "f 0644 0:0 1"},
    ),
]


@pytest.mark.parametrize(("actions", "expected"), [row[1:] for row in LINKED], ids=[row[0] for row in LINKED])
def test_copy_with_link_does_not_look_at_the_base(actions, expected):
    assert made(*actions, link=True) == expected


@pytest.mark.parametrize(("below", "link"), [(None, False), (base(), True)])
def test_a_name_cannot_be_looked_up_where_nothing_lies_below(below, link):
    op = FileOp(actions=copies("/f1", dest="/o", owner=BOB), link=link)
    with pytest.raises(BuildError, match="invalid user index"):
        apply(op, below, [below, context()], now_ns=NOW)


def test_copying_from_scratch_finds_its_root_and_nothing_else():
    assert describe(apply(FileOp(actions=copies("/", dest="/o")), None, [None, None], now_ns=NOW)) == O
    with pytest.raises(BuildError, match='"/x": not found'):
        apply(FileOp(actions=copies("/x", dest="/o")), None, [None, None], now_ns=NOW)


def test_deep_directories_need_no_deep_stack():
    source = inner = folder()
    for _ in range(2000):
        inner.children[b"d"] = folder()
        inner = inner.children[b"d"]
    inner.children[b"f"] = file()
    diff = apply(FileOp(actions=copies("/", dest="/o")), None, [None, source], now_ns=NOW)
    assert len(describe(merge([diff]))) == 2002
