"""Writes the canonical tar archive of a Tree: one Tree, one digest, which is the diff_id of the layer that it is.

pax format; members in the order of `walk`, the root first as `./`; a hard link names the first path of its node; what
ustar's fields hold exactly stands there, everything else (long names, large numbers, parts of a second, xattrs) in an
extended header whose keys are sorted. Holes are written as zeros, as every reader of layers takes them. Whiteouts are
OCI's (`.wh.NAME`, `.wh..wh..opq`). Sockets are left out, as Docker leaves them out: tar has no type for them.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import Final, assert_never
from urllib.parse import quote_from_bytes

from firekiln.errors import RootfsError
from firekiln.rootfs.content import ShortSourceError, Sources, Written, read_exactly
from firekiln.rootfs.inodes import shown
from firekiln.rootfs.overlay import without_overlay
from firekiln.rootfs.tar.headers import BLOCK, MAX_SPECIAL
from firekiln.rootfs.tree import (
    CHUNK,
    BytesSource,
    Device,
    Directory,
    Fifo,
    File,
    Inode,
    Meta,
    Node,
    Socket,
    Symlink,
    Tree,
    Whiteout,
    walk,
)

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_EXTENDED: Final = b"././@PaxHeader"
_NO_META: Final = Meta(mode=0)
_MAX_ID: Final = 0o7777777
_MAX_NUMBER: Final = 0o77777777777


def write(tree: Tree, out: int) -> Written:
    """Write the archive to a descriptor, which may be a pipe. RootfsError for what tar cannot hold."""
    return _write(tree, out)


def pieces(tree: Tree, *, root: bool = True) -> Iterator[bytes]:
    """The archive's bytes in order, about CHUNK at a time, for whoever compresses them. RootfsError as `write`.

    Without `root` the root directory itself is left out: unpacked into a directory, that keeps its own metadata.
    """
    return _gathered(_archive(tree, root=root))


def digest(tree: Tree) -> str:
    """The digest of the archive, written nowhere."""
    return _write(tree, None).digest


def _write(tree: Tree, out: int | None) -> Written:
    checksum = hashlib.sha256()
    size = 0
    for data in pieces(tree):
        checksum.update(data)
        size += len(data)
        view = memoryview(data)
        while out is not None and view:
            view = view[os.write(out, view) :]
    return Written(digest=f"sha256:{checksum.hexdigest()}", size=size)


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces worth a system call."""
    gathered: list[bytes] = []
    length = 0
    for piece in pieces:
        gathered.append(piece)
        length += len(piece)
        if length >= CHUNK:
            yield b"".join(gathered)
            gathered, length = [], 0
    yield b"".join(gathered)


def _archive(tree: Tree, *, root: bool) -> Iterator[bytes]:
    first: dict[int, bytes] = {}
    with Sources() as sources:
        for path, node in _all(tree, root=root):
            if isinstance(node, Whiteout):
                above, slash, name = path.rpartition(b"/")
                yield from _member(above + slash + _WHITEOUT + name, b"0", _NO_META)
                continue
            if isinstance(node, Socket):
                continue
            known = first.setdefault(id(node), path)
            if known is not path:
                yield from _member(path, b"1", node.meta, link=known)
                continue
            yield from _inode(path, node)
            if isinstance(node, File):
                try:
                    yield from _content(node, sources)
                except ShortSourceError as error:
                    raise RootfsError(f"/{shown(path)}: its content ended {error} bytes early") from None
    yield bytes(2 * BLOCK)


def _all(tree: Tree, *, root: bool) -> Iterator[tuple[bytes, Node]]:
    if root:
        yield b".", tree
    for path, node in walk(tree):
        if path.rpartition(b"/")[2].startswith(_WHITEOUT):
            raise RootfsError(f"/{shown(path)}: a layer's archive cannot hold a name that begins with .wh.")
        yield path, node


def _inode(path: bytes, node: Inode) -> Iterator[bytes]:
    match node:
        case Directory():
            yield from _member(path + b"/", b"5", node.meta)
            if node.opaque:
                prefix = b"" if path == b"." else path + b"/"
                yield from _member(prefix + _OPAQUE, b"0", _NO_META)
        case File():
            yield from _member(path, b"0", node.meta, size=node.size)
        case Symlink():
            yield from _member(path, b"2", node.meta, link=node.target)
        case Device():
            kind = b"4" if node.block else b"3"
            yield from _member(path, kind, node.meta, device=(node.major, node.minor))
        case Fifo():
            yield from _member(path, b"6", node.meta)
        case Socket():
            pass
        case _:
            assert_never(node)


def _member(
    path: bytes, kind: bytes, meta: Meta, *, size: int = 0, link: bytes = b"", device: tuple[int, int] = (0, 0)
) -> Iterator[bytes]:
    """The header of one member, and before it the extended one where ustar's fields do not hold everything."""
    seconds, fraction = divmod(meta.mtime_ns, 10**9)
    extended = _xattrs(meta) if meta.xattrs else {}
    if len(path) > 100:
        extended[b"path"], path = path, path[:100]
    if len(link) > 100:
        extended[b"linkpath"], link = link, link[:100]
    if size > _MAX_NUMBER:
        extended[b"size"], size = b"%d" % size, 0
    if fraction or not 0 <= seconds <= _MAX_NUMBER:
        extended[b"mtime"], seconds = _time(meta.mtime_ns), min(max(seconds, 0), _MAX_NUMBER)
    uid, gid = meta.uid, meta.gid
    if uid > _MAX_ID:
        extended[b"uid"], uid = b"%d" % uid, 0
    if gid > _MAX_ID:
        extended[b"gid"], gid = b"%d" % gid, 0
    if extended:
        records = b"".join(_record(key, value) for key, value in sorted(extended.items()))
        if len(records) > MAX_SPECIAL:
            what = f"its extended header takes {len(records)} bytes; readers of layers take {MAX_SPECIAL}"
            raise RootfsError(f"/{shown(path)}: {what}")
        yield _header(_EXTENDED, b"x", mode=0o644, size=len(records))
        yield _padded(records)
    yield _header(path, kind, mode=meta.mode, uid=uid, gid=gid, size=size, mtime=seconds, link=link, device=device)


def _xattrs(meta: Meta) -> dict[bytes, bytes]:
    """As Docker and GNU tar know them; a name that would end at its `=` as bsdtar does, which escapes it."""
    found: dict[bytes, bytes] = {}
    for name, value in without_overlay(meta.xattrs):
        if b"=" in name:
            found[b"LIBARCHIVE.xattr." + quote_from_bytes(name, safe="").encode()] = b64encode(value).rstrip(b"=")
        else:
            found[b"SCHILY.xattr." + name] = value
    return found


def _header(
    path: bytes,
    kind: bytes,
    *,
    mode: int,
    size: int,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime)
    rest = b"%b%b%b%b%07o\0%07o\0" % (kind, link.ljust(100, b"\0"), b"ustar\x0000", bytes(64), *device)
    block = (path.ljust(100, b"\0") + numbers + b" " * 8 + rest).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(key: bytes, value: bytes) -> bytes:
    r"""`LENGTH KEY=VALUE\n`, the length being that of the whole record, itself included."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    return b"%b%d%b" % (sign, seconds, (b".%09d" % fraction).rstrip(b"0") if fraction else b"")


def _content(node: File, sources: Sources) -> Iterator[bytes]:
    position = 0
    for start, length, source, offset in node.extents:
        yield from _zeros(start - position)
        if isinstance(source, BytesSource):
            yield source.data[offset : offset + length]
        else:
            for at in range(0, length, CHUNK):
                yield read_exactly(sources.fd(source), min(CHUNK, length - at), offset + at)
        position = start + length
    yield from _zeros(node.size - position)
    yield bytes(-node.size % BLOCK)


def _zeros(length: int) -> Iterator[bytes]:
    while length > 0:
        yield bytes(min(length, CHUNK))
        length -= CHUNK


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)
