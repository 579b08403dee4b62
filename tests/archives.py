"""Archives for tests: made by Python's own writer, and those that mean harm.

`CASES` are the rows of docs/reference/archives.md: what each archive tries, and how reading it ends.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from firekiln.rootfs.lookup import get
from firekiln.rootfs.tree import Device, Directory, File, Symlink, Tree, Whiteout
from trees import CAPABILITY

Member = str | tarfile.TarInfo | tuple[str | tarfile.TarInfo, bytes]


def archive(path, *members: Member, form=tarfile.PAX_FORMAT, **options):
    """An archive of members, which are names with contents, or TarInfos."""
    with tarfile.open(path, "w", format=form, **options) as out:
        for each in members:
            name, data = each if isinstance(each, tuple) else (each, b"")
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if data:
                info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def member(name, kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def symlink(name, target):
    return member(name, tarfile.SYMTYPE, linkname=target)


def hard_link(name, target):
    return member(name, tarfile.LNKTYPE, linkname=target)


def patched(path: Path, at: int, data: bytes) -> None:
    """Bytes of the first header replaced, its checksum put right."""
    raw = bytearray(path.read_bytes())
    raw[at : at + len(data)] = data
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    path.write_bytes(raw)


def _records(*pairs: tuple[str, str]) -> bytes:
    """An extended header that tarfile would not write."""
    found = b""
    for key, value in pairs:
        rest = len(key) + len(value) + 3
        found += b"%d %b=%b\n" % (rest + len(str(rest + len(str(rest)))), key.encode(), value.encode())
    return found


def raw(name: str, kind: bytes, data: bytes = b"", **fields) -> bytes:
    """One member as bytes, special ones too."""
    info = member(name, kind, size=len(data), **fields)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


END = bytes(1024)


@dataclass(frozen=True, kw_only=True)
class Case:
    """`make` writes the archive to a path; `host` is a folder of the host that it may mean.

    `refused` is what the error says; else `holds` looks at the Tree. `stored`: EROFS can hold that.
    `gnu`: GNU tar unpacks it into the same files.
    """

    make: Callable[[Path, Path], object]
    layer: bool = False
    refused: str = ""
    holds: dict[bytes, object] = field(default_factory=dict)
    stored: bool = True
    gnu: bool = False


def holds(tree: Tree, expected: dict[bytes, object]) -> None:
    """Asserts what lies at each path: content, a link's target as text, None for nothing, or a function of the node."""
    for path, value in expected.items():
        node = get(tree, path)
        match value:
            case bytes():
                assert isinstance(node, File), path
                assert node.read() == value, path
            case str():
                assert isinstance(node, Symlink), path
                assert node.target.decode() == value, path
            case None:
                assert node is None, path
            case type():
                assert isinstance(node, value), path
            case _:
                assert value(node), path


def _of(*members: Member | Callable[[Path], Member]) -> Callable[[Path, Path], object]:
    def make(path: Path, host: Path) -> object:
        return archive(path, *(each(host) if callable(each) else each for each in members))

    return make


def _bytes(*pieces: bytes) -> Callable[[Path, Path], object]:
    return lambda path, _: path.write_bytes(b"".join(pieces))


def _patched(members: tuple[Member, ...], at: int, data: bytes) -> Callable[[Path, Path], object]:
    return lambda path, _: patched(archive(path, *members, form=tarfile.USTAR_FORMAT), at, data)


def _opaque(node: object) -> bool:
    return isinstance(node, Directory) and node.opaque


SMUGGLED = raw("smuggled", tarfile.REGTYPE, b"x")
HUGE = (1 << 63) - 1

NAMES = {
    "dot-dot": Case(make=_of(("../../etc/x", b"1"), ("a/../../b", b"2")), holds={b"etc/x": b"1", b"b": b"2"}),
    "dot-dot-to-the-root": Case(make=_of(("a/..", b"1"), ("kept", b"2")), holds={b"a": None, b"kept": b"2"}),
    "absolute-name": Case(
        make=_of(lambda host: (f"{host}/canary", b"1"), ("/etc/x", b"2")), holds={b"etc/x": b"2", b"canary": None}
    ),
    "name-of-dots-and-slashes": Case(make=_of(("./a//b/./c/.", b"1")), holds={b"a/b/c": b"1"}),
    "name-with-a-zero": Case(
        make=_bytes(raw("x", b"x", _records(("path", "a\0b"))), raw("y", b"0"), END), refused="a name with a zero byte"
    ),
    "path-too-long": Case(make=_of("/".join("a" * 2100)), refused="a path of 4199 bytes"),
    "below-a-file": Case(make=_of(("f", b"1"), ("f/x", b"2")), refused="/f/x: 'f' is no directory"),
}

LINKS = {
    "write-through-a-link": Case(
        make=_of(symlink("out", "../../.."), ("out/canary", b"1")), holds={b"canary": b"1", b"out": "../../.."}
    ),
    "write-through-an-absolute-link": Case(
        make=_of(lambda host: symlink("out", str(host)), ("out/canary", b"1")),
        holds={b"out": Symlink, b"canary": None},
    ),
    "write-through-links-of-links": Case(
        make=_of(symlink("a", "b/.."), symlink("b", "c"), symlink("c", "/../../d/e"), ("a/x", b"1")),
        holds={b"d/x": b"1"},
    ),
    "write-to-a-link": Case(make=_of(lambda host: symlink("f", f"{host}/canary"), ("f", b"1")), holds={b"f": b"1"}),
    "link-loop": Case(make=_of(symlink("a", "b"), symlink("b", "a"), ("a/x", b"1")), refused="too many levels"),
    "link-to-nothing": Case(make=_of(symlink("l", "")), refused="/l: a symbolic link to nothing"),
    "legitimate-absolute-link": Case(
        make=_of(symlink("etc/localtime", "/usr/share/zoneinfo/UTC")),
        holds={b"etc/localtime": "/usr/share/zoneinfo/UTC"},
        gnu=True,
    ),
    "hard-link-outside": Case(make=_of(hard_link("h", "../../canary")), refused="/h: a hard link to '../../canary'"),
    "hard-link-to-an-absolute-path": Case(
        make=_of(lambda host: hard_link("h", f"{host}/canary")), refused="/h: a hard link to '/"
    ),
    "hard-link-through-a-link": Case(
        make=_of(lambda host: symlink("out", str(host)), hard_link("h", "out/canary")),
        refused="/h: a hard link to 'out/canary'",
    ),
    "hard-link-forward": Case(make=_of(hard_link("h", "later"), ("later", b"1")), refused="/h: a hard link to 'later'"),
    "hard-link-to-a-directory": Case(
        make=_of(member("d", tarfile.DIRTYPE), hard_link("h", "d")), refused="/h: a hard link to 'd'"
    ),
    "hard-link-to-itself": Case(make=_of(hard_link("h", "h")), refused="/h: a hard link to 'h'"),
}

KINDS = {
    "devices": Case(
        make=_of(
            member("disk", tarfile.BLKTYPE, devmajor=8, devminor=0),
            member("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
            member("pipe", tarfile.FIFOTYPE),
        ),
        holds={b"disk": Device, b"null": lambda node: (node.block, node.major, node.minor) == (False, 1, 3)},
    ),
    "set-uid": Case(
        make=_of((member("su", mode=0o6755, uid=0), b"1")), holds={b"su": lambda node: node.meta.mode == 0o6755}
    ),
    "capability": Case(
        make=_bytes(raw("x", b"x", b"57 SCHILY.xattr.security.capability=" + CAPABILITY + b"\n"), raw("y", b"0"), END),
        holds={b"y": lambda node: node.meta.xattrs == ((b"security.capability", CAPABILITY),)},
    ),
    "unknown-type": Case(make=_of(member("x", b"M")), refused="/x: members of type 'M' are not supported"),
    "owner-out-of-range": Case(
        make=_of(member("x", pax_headers={"uid": "4294967296"})), refused="/x: owner 4294967296:0 is out of range"
    ),
}

ORDER = {
    "duplicates": Case(make=_of(("f", b"1"), ("f", b"2"), ("f", b"3")), holds={b"f": b"3"}, gnu=True),
    "duplicate-of-a-hard-link": Case(
        make=_of(("f", b"1"), hard_link("h", "f"), ("f", b"2")), holds={b"f": b"2", b"h": b"1"}, gnu=True
    ),
    "link-and-then-directory": Case(
        make=_of(("d/f", b"1"), symlink("l", "d"), member("l", tarfile.DIRTYPE), ("l/g", b"2")),
        holds={b"l/g": b"2", b"d/g": None},
    ),
    "directory-and-then-file": Case(make=_of(("d/f", b"1"), ("d", b"2")), holds={b"d": b"2"}),
    "directory-and-then-link": Case(
        make=_of(member("d", tarfile.DIRTYPE), symlink("d", "e"), ("d/f", b"1")), holds={b"d": "e", b"e/f": b"1"}
    ),
    "children-before-their-directory": Case(
        make=_of(("d/e/f", b"1"), member("d/e", tarfile.DIRTYPE, mode=0o700), member("d", tarfile.DIRTYPE, mode=0o750)),
        holds={b"d/e/f": b"1", b"d/e": lambda node: node.meta.mode == 0o700, b"d": lambda n: n.meta.mode == 0o750},
        gnu=True,
    ),
}

WHITEOUTS = {
    "whiteout-of-nothing": Case(make=_of("d/.wh."), layer=True, refused="a whiteout of no name"),
    "whiteout-of-the-directory-itself": Case(make=_of("d/.wh.."), layer=True, refused="a whiteout of no name"),
    "whiteout-of-the-parent": Case(make=_of("d/.wh..."), layer=True, refused="a whiteout of no name"),
    "whiteout-beyond-the-root": Case(make=_of("../../.wh.canary"), layer=True, holds={b"canary": Whiteout}),
    "whiteout-through-a-link": Case(
        make=_of(lambda host: symlink("out", str(host)), "out/.wh.canary"), layer=True, holds={b"out": Symlink}
    ),
    "whiteout-of-the-layers-own": Case(
        make=_of(("d/x/y", b"1"), "d/.wh.x"), layer=True, holds={b"d/x/y": b"1", b"d/x": _opaque}
    ),
    "whiteout-before-the-layers-own": Case(
        make=_of("d/.wh.x", ("d/x/y", b"1")), layer=True, holds={b"d/x/y": b"1", b"d/x": _opaque}
    ),
    "opaque-first": Case(make=_of("d/.wh..wh..opq", ("d/x", b"1")), layer=True, holds={b"d/x": b"1", b"d": _opaque}),
    "opaque-last": Case(make=_of(("d/x", b"1"), "d/.wh..wh..opq"), layer=True, holds={b"d/x": b"1", b"d": _opaque}),
    "opaque-root": Case(make=_of(("x", b"1"), ".wh..wh..opq"), layer=True, holds={b"x": b"1", b"": _opaque}),
    "below-a-whiteout": Case(make=_of(("d/.wh.x/y", b"1")), layer=True, refused="it lies below a whiteout"),
    "aufs-notes": Case(
        make=_of((".wh..wh.plnk/7.8", b"1"), ".wh..wh.aufs", ("x", b"1")),
        layer=True,
        holds={b"": lambda node: list(node.children) == [b"x"]},
    ),
    "whiteout-in-an-archive-that-is-no-layer": Case(make=_of((".wh.x", b"1")), holds={b".wh.x": b"1"}, gnu=True),
}

SIZES = {
    "pax-size-beyond-ustars": Case(
        make=_bytes(raw("x", b"x", _records(("size", "1024"))), member("f").tobuf(), SMUGGLED, raw("g", b"0"), END),
        holds={b"f": SMUGGLED, b"smuggled": None, b"g": b""},
        gnu=True,
    ),
    "pax-size-below-ustars": Case(
        make=_bytes(raw("x", b"x", _records(("size", "0"))), member("f", size=1024).tobuf(), SMUGGLED, END),
        holds={b"f": b"", b"smuggled": b"x"},
        gnu=True,
    ),
    "size-of-a-link": Case(
        make=_bytes(member("l", tarfile.SYMTYPE, linkname="t", size=1024).tobuf(), SMUGGLED, END),
        holds={b"l": "t", b"smuggled": b"x"},
    ),
    "negative-size": Case(
        make=_patched((("f", b"1"),), 124, b"\xff" * 11 + b"\xf0"), refused="the number -16 is out of range"
    ),
    "size-beyond-the-archive": Case(
        make=_patched((("f", b"1"),), 124, b"\x80" + b"\0" * 7 + b"\x7f\xff\xff\xff"), refused="it is cut off"
    ),
    "size-with-a-sign": Case(make=_patched((("f", b"1"),), 124, b"+0000000001\0"), refused="is no number"),
    "pax-size-that-is-none": Case(make=_of(member("x", pax_headers={"size": "-1"})), refused="is no number"),
    "lone-block-of-zeros": Case(
        make=_bytes(raw("f", b"0", b"1"), bytes(512), SMUGGLED, END), refused="a lone block of zeros"
    ),
    "members-after-the-end": Case(
        make=_bytes(raw("f", b"0", b"1"), END, SMUGGLED, END), holds={b"f": b"1", b"smuggled": None}, gnu=True
    ),
    "extended-header-too-large": Case(
        make=_bytes(raw("x", b"x", bytes((1 << 20) + 1)), END), refused="an extended header of 1048577 bytes"
    ),
    "extended-header-without-lengths": Case(
        make=_bytes(raw("x", b"x", b"10 abcd=f\n" + b"x" * 30), raw("f", b"0"), END),
        refused="a broken extended header",
    ),
    "global-header-of-a-path": Case(
        make=_bytes(raw("x", b"g", _records(("path", "p"))), raw("f", b"0"), END), refused="a global header with 'path'"
    ),
    "global-header-of-attributes": Case(
        make=_bytes(raw("x", b"g", _records(("SCHILY.xattr.user.a", "v"))), raw("f", b"0"), END),
        refused="a global header with 'SCHILY.xattr.user.a'",
    ),
    "global-comment": Case(
        make=_bytes(raw("x", b"g", _records(("comment", "0b4dd1b0"))), raw("f", b"0"), END),
        holds={b"f": b""},
        gnu=True,
    ),
}


def _sparse(size: int, runs: str, data: bytes) -> Callable[[Path, Path], object]:
    headers = {"GNU.sparse.map": runs, "GNU.sparse.size": str(size)}
    return _of((member("s", pax_headers=headers), data))


SPARSE = {
    "eight-exbibytes": Case(
        make=_sparse(HUGE, f"{HUGE - 7},3", b"end"),
        holds={b"s": lambda node: node.size == HUGE and node.extents[0].start == HUGE - 7},
        stored=False,
    ),
    "pieces-beyond-the-size": Case(make=_sparse(1, f"0,{HUGE}", b""), refused="sparse file and its pieces disagree"),
    "pieces-that-overlap": Case(make=_sparse(9, "4,2,0,2", b"1234"), refused="pieces of a sparse file overlap"),
    "pieces-that-lack-content": Case(make=_sparse(9, "0,4", b"1"), refused="sparse file and its pieces disagree"),
    "negative-offset": Case(make=_sparse(9, "-4,1", b"1"), refused="is no number in range"),
    "millions-of-pieces": Case(
        make=_bytes(
            raw("x", b"x", _records(("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "9"))),
            raw("s", b"0", b"99999999\n" + b"0\n" * 999),
            END,
        ),
        refused="too many pieces in a sparse file",
    ),
}

CASES: dict[str, Case] = NAMES | LINKS | KINDS | ORDER | WHITEOUTS | SIZES | SPARSE
