"""newc cpio archives, as the kernel unpacks them for an initramfs.

Source: Linux, `Documentation/driver-api/early-userspace/buffer-format.rst` and `init/initramfs.c`. Everything is padded
to four bytes; numbers are eight hexadecimal digits, so that sizes and times end at 2³²-1. The names of a hard link have
one inode number, and the first of them carries the data; a symbolic link's target stands with every name. There are no
xattrs, and times are whole seconds.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from struct import Struct
from struct import error as StructError  # noqa: N812 - the name says what it is
from typing import Final

from firekiln.errors import RootfsError
from firekiln.rootfs.content import SequentialFile, ShortSourceError, Sources, Written
from firekiln.rootfs.inodes import shown
from firekiln.rootfs.tree import (
    CHUNK,
    Device,
    Directory,
    Extent,
    Fifo,
    File,
    Meta,
    Node,
    PathSource,
    Socket,
    Symlink,
    Tree,
    Whiteout,
    walk,
)

_MAGIC: Final = b"070701"
_HEADER: Final = len(_MAGIC) + 13 * 8
_FIELDS: Final = Struct(">13I")
_TRAILER: Final = b"TRAILER!!!"
_MAX: Final = (1 << 32) - 1
_PATH_MAX: Final = 4096


def write(tree: Tree, out: int | str | os.PathLike[str]) -> Written:
    """Write the archive to a path, or to an empty file's descriptor open for reading and writing.

    Deterministic: members in the order of `walk`, the root first as `.`, inode numbers counted from 1. What a layer
    hides is nothing to a root file system: whiteouts are left out, extended attributes too. RootfsError, with the path,
    for what newc cannot hold.
    """
    with ExitStack() as cleanup:
        if not isinstance(out, int):
            out = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            cleanup.callback(os.close, out)
        file = cleanup.enter_context(SequentialFile(out, cleanup.enter_context(Sources())))
        names = _links(tree)
        numbers: dict[int, int] = {}
        for path, node in ((b".", tree), *walk(tree)):
            if isinstance(node, Whiteout):
                continue
            number = numbers.get(id(node))
            first = number is None
            number = numbers.setdefault(id(node), len(numbers) + 1)
            try:
                _write_member(file, path, node, number=number, links=names.get(id(node), 1), first=first)
            except ShortSourceError as error:
                raise RootfsError(f"/{shown(path)}: its content ended {error} bytes early") from None
        file.write(_header(_TRAILER, links=1))
        return Written(digest=file.digest(), size=file.position)


def _links(tree: Tree) -> dict[int, int]:
    """The number of names of each node that is no directory."""
    found: dict[int, int] = {}
    for _, node in walk(tree):
        if not isinstance(node, Directory):
            found[id(node)] = found.get(id(node), 0) + 1
    return found


def _write_member(file: SequentialFile, path: bytes, node: Node, *, number: int, links: int, first: bool) -> None:
    assert not isinstance(node, Whiteout)
    kind, size, device = _described(node)
    meta = node.meta
    if isinstance(node, File) and not first:
        size = 0
    seconds = meta.mtime_ns // 10**9
    if len(path) >= _PATH_MAX:
        raise RootfsError(f"/{shown(path)}: a path of {len(path)} bytes; an initramfs takes {_PATH_MAX - 1}")
    if not (size <= _MAX and 0 <= seconds <= _MAX and 0 <= meta.uid <= _MAX and 0 <= meta.gid <= _MAX):
        raise RootfsError(f"/{shown(path)}: its size, time or owner is out of cpio's range")
    nlink = 2 if isinstance(node, Directory) else links
    mode = kind | stat.S_IMODE(meta.mode)
    file.write(
        _header(
            path,
            number=number,
            mode=mode,
            uid=meta.uid,
            gid=meta.gid,
            links=nlink,
            seconds=seconds,
            size=size,
            device=device,
        )
    )
    if isinstance(node, Symlink):
        file.write(node.target + bytes(-len(node.target) % 4))
    elif isinstance(node, File) and first:
        _write_content(file, node)


def _described(node: Node) -> tuple[int, int, tuple[int, int]]:
    """Type bits, bytes of content, device number."""
    match node:
        case File():
            return stat.S_IFREG, node.size, (0, 0)
        case Symlink():
            return stat.S_IFLNK, len(node.target), (0, 0)
        case Device():
            return stat.S_IFBLK if node.block else stat.S_IFCHR, 0, (node.major, node.minor)
        case Directory():
            return stat.S_IFDIR, 0, (0, 0)
        case Fifo():
            return stat.S_IFIFO, 0, (0, 0)
        case _:
            return stat.S_IFSOCK, 0, (0, 0)


def _header(
    name: bytes,
    *,
    number: int = 0,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    links: int,
    seconds: int = 0,
    size: int = 0,
    device: tuple[int, int] = (0, 0),
) -> bytes:
    fields = (number, mode, uid, gid, links, seconds, size, 0, 0, *device, len(name) + 1, 0)
    header = _MAGIC + b"".join(b"%08X" % value for value in fields) + name + b"\0"
    return header + bytes(-len(header) % 4)


def _write_content(file: SequentialFile, node: File) -> None:
    position = 0
    for start, length, source, offset in node.extents:
        file.zeros(start - position)
        file.extent(source, offset, length)
        position = start + length
    file.zeros(node.size - position + -node.size % 4)


def read(path: str | os.PathLike[str]) -> Tree:
    """The Tree of a newc archive; content are extents of it. RootfsError where it is malformed.

    Several archives one after the other, padded with zeros, are one Tree, as the kernel has it.
    """
    name = os.fspath(path)
    source = PathSource(name)
    root = Directory(meta=Meta(mode=0o755))
    linked: dict[tuple[int, int], Node] = {}
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the path may be a str
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for archive, member, fields, offset in _members(data):
            _add(root, member, _node(fields, data, offset, source), linked, (archive, fields[0]))
    except (ValueError, IndexError, KeyError, StructError) as error:
        raise RootfsError(f"{name}: the cpio archive is malformed ({error})") from None
    return root


def _members(data: mmap.mmap) -> Iterator[tuple[int, bytes, tuple[int, ...], int]]:
    """Which archive, the name, the header's fields, and where the content begins."""
    position = archive = 0
    while position < len(data):
        if not data[position]:
            zeros = data[position : position + CHUNK]
            position += len(zeros) - len(zeros.lstrip(b"\0"))
            continue
        if data[position : position + 6] != _MAGIC:
            raise ValueError(f"no header at byte {position}")
        fields = _FIELDS.unpack(bytes.fromhex(data[position + 6 : position + _HEADER].decode("ascii")))
        end = position + _HEADER + fields[11]
        name = data[position + _HEADER : end - 1]
        offset = end + -end % 4
        position = offset + fields[6] + -fields[6] % 4
        if name == _TRAILER:
            archive += 1
        elif position > len(data):
            raise ValueError("it is cut off")
        else:
            yield archive, name, fields, offset


def _node(fields: tuple[int, ...], data: mmap.mmap, offset: int, source: PathSource) -> Node:
    _, mode, uid, gid, _, seconds, size, _, _, major, minor, _, _ = fields
    meta = Meta(mode=stat.S_IMODE(mode), uid=uid, gid=gid, mtime_ns=seconds * 10**9)
    match stat.S_IFMT(mode):
        case stat.S_IFREG:
            return File(meta=meta, size=size, extents=(Extent(0, size, source, offset),) if size else ())
        case stat.S_IFDIR:
            return Directory(meta=meta)
        case stat.S_IFLNK:
            return Symlink(meta=meta, target=data[offset : offset + size])
        case stat.S_IFIFO:
            return Fifo(meta=meta)
        case stat.S_IFSOCK:
            return Socket(meta=meta)
        case stat.S_IFCHR | stat.S_IFBLK as kind:
            return Device(meta=meta, block=kind == stat.S_IFBLK, major=major, minor=minor)
        case kind:
            raise ValueError(f"file type {kind:#o}")


def _add(root: Tree, path: bytes, node: Node, linked: dict[tuple[int, int], Node], key: tuple[int, int]) -> None:
    *above, last = [part for part in path.split(b"/") if part not in {b"", b"."}] or [b""]
    if not last:
        root.meta = node.meta if isinstance(node, Directory) else root.meta
        return
    parent = root
    for part in above:
        below = parent.children[part]
        if not isinstance(below, Directory):
            raise ValueError(f"{part!r} is no directory")  # noqa: TRY004 - it is the archive that is wrong
        parent = below
    old = parent.children.get(last)
    if isinstance(node, Directory):
        if isinstance(old, Directory):
            old.meta = node.meta
            return
    else:
        node = linked.setdefault(key, node)
    parent.children[last] = node
