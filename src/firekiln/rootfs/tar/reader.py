"""Reads a tar archive as a Tree. Nothing is unpacked: the files' content stays where it lies, in the archive itself.

Every path is taken from the Tree's own root: `..` stops there, links lead to where they would lead with that root. What
cannot be in any file system (a hard link to nothing, a file below a file) ends in RootfsError.
"""

from __future__ import annotations

import mmap
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeAlias

from firekiln.errors import RootfsError
from firekiln.rootfs import compression, lookup
from firekiln.rootfs.compression import MAX_RATIO, Compression, Decompressed, Readable, detect
from firekiln.rootfs.inodes import collector_paused, shown
from firekiln.rootfs.merge import squash
from firekiln.rootfs.overlay import without_overlay
from firekiln.rootfs.tar import headers
from firekiln.rootfs.tar.headers import Entry
from firekiln.rootfs.tree import (
    Device,
    Directory,
    Extent,
    Fifo,
    File,
    Inode,
    Meta,
    PathSource,
    Symlink,
    Tree,
    Whiteout,
)

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."
"""What AUFS kept for itself; no other file system knows it, and layers of old still bring it."""
_IMPLIED = Meta(mode=0o755)

Archive: TypeAlias = str | os.PathLike[str] | Readable


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an archive may grow to: members (directories that are only implied count), bytes when decompressed, how
    many times its size that may be (which nobody asks up to UNSUSPECTED bytes), and bytes of one path, which the
    kernel could not look up beyond PATH_MAX.
    """

    members: int = 5_000_000
    size: int = 1 << 40
    ratio: int = MAX_RATIO
    path: int = 4096


def read(
    archive: Archive,
    *,
    spool: str | os.PathLike[str] | None = None,
    whiteouts: bool = False,
    below: Tree | None = None,
    limits: Limits = Limits(),
    name: str = "archive",
) -> Tree:
    """The Tree of a tar archive: ustar, pax or GNU, plain or compressed.

    `archive` is a path or anything to read from. Files' content are extents of a plain archive given by path; anything
    else is written, decompressed, to the file `spool`, of which they then are extents: it must stay as long as the Tree
    is used. With `whiteouts` it is an image's layer: `.wh.` names become whiteouts and opaque directories. Directories
    that the archive implies without describing them are as they are in `below`, or 0755 root:root.

    `name` is what errors call an archive that is no path. RootfsError where it is damaged, malformed, hostile or
    beyond `limits`; ValueError where `spool` is missing.
    """
    with ExitStack() as cleanup:
        if isinstance(archive, str | os.PathLike):
            name = os.fspath(archive)
            stream: Readable = cleanup.enter_context(open(archive, "rb"))  # noqa: PTH123 - the path may be a str
            plain = _is_plain(name)
        else:
            stream, plain = archive, False
        if not plain:
            if spool is None:
                raise ValueError("a compressed archive or a stream needs a file to lie in")
            compression.spool(stream, spool, limit=limits.size, ratio=limits.ratio, name=name)
    path = os.fspath(archive) if plain and isinstance(archive, str | os.PathLike) else os.fspath(spool or "")
    builder = _Builder(PathSource(path), name=name, whiteouts=whiteouts, below=below, limits=limits)
    with open(path, "rb") as file, collector_paused():  # noqa: PTH123 - ditto
        if os.fstat(file.fileno()).st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for entry in headers.entries(data, name):
                    builder.add(entry)
    return squash([builder.root]) if whiteouts else builder.root


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether ADD would unpack this file: a tar archive, plain or compressed, by its content."""
    with open(path, "rb") as file:  # noqa: PTH123 - the path may be a str
        try:
            stream = Decompressed(file)
            head = b""
            while len(head) < headers.BLOCK and (more := stream.read(headers.BLOCK - len(head))):
                head += more
        except RootfsError:
            return False
    return len(head) == headers.BLOCK and headers.begins_archive(head)


def _is_plain(path: str) -> bool:
    with open(path, "rb") as file:  # noqa: PTH123 - the path may be a str
        return detect(file.read(6)) is Compression.NONE


class _Builder:
    def __init__(self, source: PathSource, *, name: str, whiteouts: bool, below: Tree | None, limits: Limits) -> None:
        self.root = Directory(meta=below.meta if below else _IMPLIED)
        self._source = source
        self._name = name
        self._whiteouts = whiteouts
        self._below = below
        self._limits = limits
        self._members = 0

    def add(self, entry: Entry) -> None:
        self._count(entry.path)
        if len(entry.path) > self._limits.path:
            raise self._error(entry.path, f"a path of {len(entry.path)} bytes")
        *above, last = _clean(entry.path) or [b""]
        if not last:
            if entry.type == headers.DIRECTORY:
                self.root.meta = self._meta(entry)
            return
        if self._whiteouts and last.startswith(_WHITEOUT):
            self._white_out(entry, above, last)
            return
        if self._whiteouts and _WHITEOUT in entry.path and self._below_whiteout(above, entry):
            return
        parent = self._directory(above, entry)
        node = self._node(entry)
        old = parent.children.get(last)
        if isinstance(node, Directory):
            if isinstance(old, Directory):
                old.meta = node.meta
                return
            node.opaque = isinstance(old, Whiteout)
        parent.children[last] = node

    def _count(self, path: bytes) -> None:
        self._members += 1
        if self._members > self._limits.members:
            raise self._error(path, f"more than {self._limits.members} members")

    def _error(self, path: bytes, what: str) -> RootfsError:
        return RootfsError(f"{self._name}: /{shown(path.lstrip(b'/'))}: {what}")

    def _directory(self, parts: list[bytes], entry: Entry) -> Directory:
        """The directory that `parts` lead to, made where it is missing."""
        node = self.root
        for position, part in enumerate(parts):
            child = node.children.get(part)
            if isinstance(child, Symlink):
                # What is resolved holds no link any more: this recurs once.
                return self._directory(_clean(self._resolve(parts, entry).path), entry)
            if child is None or isinstance(child, Whiteout):
                child = self._implied(parts[: position + 1], entry, opaque=child is not None)
                node.children[part] = child
            if not isinstance(child, Directory):
                raise self._error(entry.path, f"{shown(part)!r} is no directory")
            node = child
        return node

    def _implied(self, parts: list[bytes], entry: Entry, *, opaque: bool) -> Directory:
        self._count(entry.path)
        below = lookup.get(self._below, b"/".join(parts)) if self._below else None
        return Directory(meta=below.meta if isinstance(below, Directory) else _IMPLIED, opaque=opaque)

    def _resolve(self, parts: list[bytes], entry: Entry, *, follow_last: bool = True) -> lookup.Resolved:
        try:
            return lookup.resolve(self.root, b"/".join(parts), follow_last=follow_last)
        except RootfsError as error:
            raise self._error(entry.path, error.message) from None

    def _white_out(self, entry: Entry, above: list[bytes], last: bytes) -> None:
        if last == _OPAQUE:
            self._directory(above, entry).opaque = True
            return
        if last.startswith(_AUFS):
            return
        hidden = last[len(_WHITEOUT) :]
        if hidden in {b"", b".", b".."}:
            raise self._error(entry.path, "a whiteout of no name")
        parent = self._directory(above, entry)
        known = parent.children.setdefault(hidden, Whiteout())
        if isinstance(known, Directory):
            # What the layer itself brings is not meant, whichever comes first.
            known.opaque = True

    def _below_whiteout(self, above: list[bytes], entry: Entry) -> bool:
        """Whether this is AUFS's own. RootfsError for what lies below any other whiteout."""
        if above and above[0].startswith(_AUFS):
            return True
        if any(part.startswith(_WHITEOUT) for part in above):
            raise self._error(entry.path, "it lies below a whiteout")
        return False

    def _node(self, entry: Entry) -> Inode:
        if entry.type == headers.LINK:
            return self._link(entry)
        meta = self._meta(entry)
        match entry.type:
            case headers.DIRECTORY:
                return Directory(meta=meta)
            case headers.SYMLINK:
                if not entry.link:
                    raise self._error(entry.path, "a symbolic link to nothing")
                return Symlink(meta=meta, target=entry.link)
            case headers.CHARACTER | headers.BLOCK_DEVICE as kind:
                block = kind == headers.BLOCK_DEVICE
                return Device(meta=meta, block=block, major=entry.major, minor=entry.minor)
            case headers.FIFO:
                return Fifo(meta=meta)
            case kind if kind in headers.REGULAR or kind == headers.GNU_SPARSE:
                return File(meta=meta, size=entry.size, extents=self._extents(entry))
            case kind:
                raise self._error(entry.path, f"members of type {chr(kind)!r} are not supported")

    def _link(self, entry: Entry) -> Inode:
        """A hard link is to what the archive brought before, wherever its path leads within the Tree."""
        target = self._resolve(_clean(entry.link), entry, follow_last=False).node
        if target is None or isinstance(target, Directory | Whiteout):
            raise self._error(
                entry.path, f"a hard link to {shown(entry.link)!r}, which the archive has not brought before"
            )
        return target

    def _extents(self, entry: Entry) -> tuple[Extent, ...]:
        if entry.runs is None:
            return (Extent(0, entry.size, self._source, entry.data),) if entry.size else ()
        extents = []
        offset = entry.data
        for start, length in entry.runs:
            if length:
                extents.append(Extent(start, length, self._source, offset))
            offset += length
        return tuple(extents)

    def _meta(self, entry: Entry) -> Meta:
        if entry.uid >= 1 << 32 or entry.gid >= 1 << 32:
            raise self._error(entry.path, f"owner {entry.uid}:{entry.gid} is out of range")
        xattrs = without_overlay(tuple(sorted(entry.xattrs.items()))) if entry.xattrs else ()
        return Meta(mode=entry.mode, uid=entry.uid, gid=entry.gid, mtime_ns=entry.mtime_ns, xattrs=xattrs)


def _clean(path: bytes) -> list[bytes]:
    """The parts of a path below the root: `..` takes back what stands before it, and stops at the root."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part not in {b"", b"."}:
            parts.append(part)
    return parts
