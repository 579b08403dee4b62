"""The Tree: one model of a file system, which every reader makes and every writer takes.

A Tree is a `Directory`; its children are nodes, and a hard link is one node under two names (nodes compare by
identity). Names and paths are bytes, as the kernel has them; a path is relative to the root, without a leading slash,
`b""` being the root itself. A `Directory` may be lazy: its children are then made when they are first asked for, so
that looking up one file of an image of 10⁶ entries reads a handful of directories.

File content is not held: a `File` lists extents of a `Source`, a file on the host's disk or a few bytes in memory.
What no extent covers is a hole and reads as zeros.

A whiteout ("this name of the layer below is gone") and an opaque directory ("nothing of the layers below shows
here") are part of the model, as OCI's layer specification and overlayfs have them; `merge` in `merge.py` applies them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol, TypeAlias

from firekiln.values import numerous

CHUNK = 1 << 20
"""Bytes read at a time where content passes through memory."""

_LOADING = threading.RLock()
"""Held while a lazy directory is filled: steps that run side by side read the same Trees."""


@numerous(frozen=True, slots=True, kw_only=True)
class Meta:
    """What every inode has. `mode` holds the permission bits only (07777); times are nanoseconds since the epoch.

    `xattrs` are name and value pairs sorted by name, names in full (`security.capability`).
    """

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


class Source(Protocol):
    """Where bytes of files lie. `open` yields a readable descriptor that `pread` and `copy_file_range` accept."""

    def open(self) -> AbstractContextManager[int]: ...


@numerous(frozen=True, slots=True, eq=False)
class PathSource:
    """A file of the host that nobody else changes: a blob of the store, a spool file.

    `padded`: where a file's content that starts at a multiple of 4096 ends, zeros follow up to the next one, so that
    a writer with the same habit may copy many files that lie behind one another at once.
    """

    path: str
    padded: bool = False

    @contextmanager
    def open(self) -> Iterator[int]:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


@numerous(frozen=True, slots=True, eq=False)
class BytesSource:
    """Content in memory. Readers of small files look at `data` first and need no descriptor."""

    data: bytes

    @contextmanager
    def open(self) -> Iterator[int]:
        fd = os.memfd_create("firekiln", os.MFD_CLOEXEC)
        try:
            view = memoryview(self.data)
            while view:
                view = view[os.write(fd, view) :]
            yield fd
        finally:
            os.close(fd)


class Extent(NamedTuple):
    """`length` bytes of a file from `start` on are those of `source` from `offset` on."""

    start: int
    length: int
    source: Source
    offset: int


@numerous(frozen=True, slots=True, kw_only=True, eq=False)
class File:
    """A regular file of `size` bytes. Extents are in order of `start`, do not overlap and end within `size`."""

    meta: Meta
    size: int
    extents: tuple[Extent, ...] = ()

    @classmethod
    def of(cls, data: bytes, meta: Meta) -> File:
        extents = (Extent(0, len(data), BytesSource(data), 0),) if data else ()
        return cls(meta=meta, size=len(data), extents=extents)

    def chunks(self) -> Iterator[bytes]:
        """The content in order, holes as zeros, at most CHUNK bytes at a time. OSError where a source is gone."""
        position = 0
        for start, length, source, offset in self.extents:
            yield from _zeros(start - position)
            yield from _stored(source, offset, length)
            position = start + length
        yield from _zeros(self.size - position)

    def read(self) -> bytes:
        return b"".join(self.chunks())


@numerous(frozen=True, slots=True, kw_only=True, eq=False)
class Symlink:
    meta: Meta
    target: bytes


@numerous(frozen=True, slots=True, kw_only=True, eq=False)
class Device:
    """A character (`block=False`) or block device node."""

    meta: Meta
    block: bool
    major: int
    minor: int


@numerous(frozen=True, slots=True, kw_only=True, eq=False)
class Fifo:
    meta: Meta


@numerous(frozen=True, slots=True, kw_only=True, eq=False)
class Socket:
    meta: Meta


@numerous(frozen=True, slots=True, eq=False)
class Whiteout:
    """The name is gone from the layers below. It has no metadata of its own."""


class Directory:
    """A directory. `children` maps names to nodes; give a mapping, or a function that makes it when it is first needed.

    A maker may add to `children` while it builds the Tree; whoever is handed a Tree treats it as immutable.
    """

    __slots__ = ("_children", "_load", "meta", "opaque")

    def __init__(
        self,
        *,
        meta: Meta,
        children: dict[bytes, Node] | None = None,
        load: Callable[[], dict[bytes, Node]] | None = None,
        opaque: bool = False,
    ) -> None:
        self.meta = meta
        self.opaque = opaque
        self._load = load
        self._children = children if children is not None else (None if load else {})

    @property
    def children(self) -> dict[bytes, Node]:
        if self._children is None:
            with _LOADING:
                if self._children is None:
                    assert self._load is not None
                    self._children = self._load()
                    self._load = None
        return self._children

    def with_meta(self, meta: Meta) -> Directory:
        """The same directory, its children shared and still lazy, under other metadata."""
        return Directory(meta=meta, load=lambda: self.children, opaque=self.opaque)


Node: TypeAlias = File | Symlink | Device | Fifo | Socket | Directory | Whiteout
Tree: TypeAlias = Directory
Inode: TypeAlias = File | Symlink | Device | Fifo | Socket | Directory
"""A node that has metadata: all but a Whiteout."""


def walk(tree: Tree, prefix: bytes = b"") -> Iterator[tuple[bytes, Node]]:
    """Every node below the root, parents before children, siblings by name (bytewise); no recursion limit."""
    stack: list[Iterator[tuple[bytes, Node]]] = [iter(_entries(tree.children, prefix))]
    while stack:
        for path, node in stack[-1]:
            yield path, node
            if isinstance(node, Directory):
                stack.append(iter(_entries(node.children, path)))
                break
        else:
            stack.pop()


def _entries(children: Mapping[bytes, Node], prefix: bytes) -> list[tuple[bytes, Node]]:
    head = prefix + b"/" if prefix else b""
    return [(head + name, children[name]) for name in sorted(children)]


def _zeros(length: int) -> Iterator[bytes]:
    while length > 0:
        yield bytes(min(length, CHUNK))
        length -= CHUNK


def _stored(source: Source, offset: int, length: int) -> Iterator[bytes]:
    if isinstance(source, BytesSource):
        yield source.data[offset : offset + length]
        return
    with source.open() as fd:
        while length > 0:
            data = os.pread(fd, min(length, CHUNK), offset)
            if not data:
                raise OSError(f"a source of file content ends {length} bytes early")
            yield data
            offset += len(data)
            length -= len(data)
