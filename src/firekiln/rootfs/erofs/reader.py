"""Reads an uncompressed EROFS image as a Tree: what `write` makes, and what `mkfs.erofs` makes without compression.

Lazy: a directory is read when its children are asked for. The image may be hostile: every place in it is checked
against its size, and a directory that lies within itself is refused.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from struct import error as StructError  # noqa: N812 - the name says what it is

from firekiln.errors import RootfsError
from firekiln.rootfs.erofs import xattr
from firekiln.rootfs.erofs.layout import (
    CHUNK_BITS_MASK,
    CHUNK_INDEX,
    CHUNK_INDEXES,
    DIRENT,
    INCOMPAT_CHUNKED_FILE,
    INCOMPAT_ZERO_PADDING,
    INODE_COMPACT,
    INODE_EXTENDED,
    MAGIC,
    NULL_BLOCK,
    SLOT,
    SUPERBLOCK,
    SUPERBLOCK_OFFSET,
    Layout,
    round_up,
)
from firekiln.rootfs.inodes import decode_device
from firekiln.rootfs.overlay import is_opaque, without_overlay
from firekiln.rootfs.tree import (
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
)

_MAX_CHUNKS = 1 << 26
_PADDING = 4096
"""What `PathSource.padded` promises; EROFS pads to its own block's size."""
_MAX_DIRECTORY = 1 << 31


def read(path: str | os.PathLike[str]) -> Tree:
    """The Tree of the image at `path`, whose files' content are extents of that one file.

    RootfsError for what is no EROFS image, or a compressed or damaged one; for damage further down when the Tree is
    walked. The image must stay as it is for as long as the Tree is used.
    """
    image = _open(os.fspath(path))
    root = image.node(image.root_nid)
    if not isinstance(root, Directory):
        raise RootfsError(f"{image.path}: the root of the EROFS image is no directory")
    return root


@dataclass(slots=True, kw_only=True)
class _Inode:
    """An inode as it stands in the image. `behind` is the offset after its xattrs."""

    nid: int
    mode: int
    layout: int
    size: int
    union: int
    nlink: int
    meta: Meta
    opaque: bool
    behind: int


def _open(path: str) -> _Image:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - mmap wants a descriptor
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise RootfsError(f"{path}: not an EROFS image (it is empty)") from None
    if len(data) < SUPERBLOCK_OFFSET + SUPERBLOCK.size:
        raise RootfsError(f"{path}: not an EROFS image (it is too short)")
    fields = SUPERBLOCK.unpack_from(data, SUPERBLOCK_OFFSET)
    magic, _, _, block_bits, _, root_nid, _, build_time, build_time_nsec, _, meta_block, xattr_block = fields[:12]
    incompatible = fields[14] & ~(INCOMPAT_CHUNKED_FILE | INCOMPAT_ZERO_PADDING)
    if magic != MAGIC or not 9 <= block_bits <= 16:
        raise RootfsError(f"{path}: not an EROFS image")
    if incompatible:
        raise RootfsError(
            f"{path}: the EROFS image uses features that are not known here ({incompatible:#x})",
            hint="make it without compression: mkfs.erofs IMAGE DIRECTORY",
        )
    block = 1 << block_bits
    shared = memoryview(data)[min(xattr_block * block, len(data)) :]
    return _Image(
        path=path,
        data=data,
        source=PathSource(path, padded=block == _PADDING and len(data) % _PADDING == 0),
        block=block,
        root_nid=root_nid,
        metadata=meta_block * block,
        shared=shared,
        build_time_ns=build_time * 10**9 + build_time_nsec,
    )


@dataclass(slots=True, kw_only=True, eq=False)
class _Image:
    path: str
    data: mmap.mmap
    source: PathSource
    block: int
    root_nid: int
    metadata: int
    shared: memoryview
    build_time_ns: int
    linked: dict[int, Node] = field(default_factory=dict)
    directories: set[int] = field(default_factory=set)

    def node(self, nid: int) -> Node:
        """The node of an inode: the same object each time for what has several names."""
        known = self.linked.get(nid)
        if known is not None:
            return known
        try:
            inode = self._inode(nid)
            node = self._make(inode)
        except (StructError, ValueError, IndexError) as error:
            raise RootfsError(f"{self.path}: the EROFS image is damaged at inode {nid} ({error})") from None
        if inode.nlink > 1 and not isinstance(node, Directory | Whiteout):
            self.linked[nid] = node
        return node

    def _inode(self, nid: int) -> _Inode:
        offset = self.metadata + nid * SLOT
        head = self.data[offset : offset + 2]
        if len(head) < 2:
            raise ValueError("it lies outside the image")
        layout = head[0] >> 1 & 7
        if head[0] & 1:
            _, icount, mode, _, size, union, _, uid, gid, seconds, nanoseconds, nlink = INODE_EXTENDED.unpack_from(
                self.data, offset
            )
            mtime_ns = seconds * 10**9 + nanoseconds
            body = offset + INODE_EXTENDED.size
        else:
            _, icount, mode, nlink, size, _, union, _, uid, gid, _ = INODE_COMPACT.unpack_from(self.data, offset)
            mtime_ns = self.build_time_ns
            body = offset + INODE_COMPACT.size
        behind = body + xattr.body_size(icount)
        xattrs = xattr.unpack(self.data[body:behind], self.shared) if icount else ()
        return _Inode(
            nid=nid,
            mode=mode,
            layout=layout,
            size=size,
            union=union,
            nlink=nlink,
            meta=Meta(
                mode=mode & 0o7777,
                uid=uid,
                gid=gid,
                mtime_ns=mtime_ns,
                xattrs=without_overlay(xattrs) if xattrs else (),
            ),
            opaque=bool(xattrs) and is_opaque(xattrs),
            behind=behind,
        )

    def _make(self, inode: _Inode) -> Node:  # noqa: PLR0911 - one case for each type
        match stat.S_IFMT(inode.mode):
            case stat.S_IFREG:
                return File(meta=inode.meta, size=inode.size, extents=self._extents(inode))
            case stat.S_IFDIR:
                if inode.nid in self.directories:
                    raise ValueError("a directory with two names")
                self.directories.add(inode.nid)
                load = partial(self._children, inode)
                return Directory(meta=inode.meta, load=load, opaque=inode.opaque)
            case stat.S_IFLNK:
                return Symlink(meta=inode.meta, target=self._content(inode, self.block))
            case stat.S_IFCHR if not inode.union:
                return Whiteout()
            case stat.S_IFCHR | stat.S_IFBLK as kind:
                major, minor = decode_device(inode.union)
                return Device(meta=inode.meta, block=kind == stat.S_IFBLK, major=major, minor=minor)
            case stat.S_IFIFO:
                return Fifo(meta=inode.meta)
            case stat.S_IFSOCK:
                return Socket(meta=inode.meta)
            case kind:
                raise ValueError(f"file type {kind:#o}")

    def _extents(self, inode: _Inode) -> tuple[Extent, ...]:
        """Where the inode's data lie, all of it within the image."""
        if inode.layout == Layout.FLAT_PLAIN and inode.size:  # nearly all files
            extents: tuple[Extent, ...] = (Extent(0, inode.size, self.source, inode.union * self.block),)
        else:
            extents = tuple(self._mapped(inode))
        for extent in extents:
            if extent.offset + extent.length > len(self.data):
                raise ValueError("its data lie outside the image")
        return extents

    def _mapped(self, inode: _Inode) -> Iterator[Extent]:
        size = inode.size
        match inode.layout:
            case Layout.FLAT_PLAIN:
                if size:
                    yield Extent(0, size, self.source, inode.union * self.block)
            case Layout.FLAT_INLINE:
                cut = size - size % self.block
                if cut:
                    yield Extent(0, cut, self.source, inode.union * self.block)
                if size > cut:
                    yield Extent(cut, size - cut, self.source, inode.behind)
            case Layout.CHUNK_BASED:
                yield from self._chunks(inode)
            case Layout.COMPRESSED_FULL | Layout.COMPRESSED_COMPACT:
                raise ValueError("it is compressed, which is not supported")
            case layout:
                raise ValueError(f"data layout {layout}")

    def _chunks(self, inode: _Inode) -> Iterator[Extent]:
        """One extent for each run of chunks that follow one another in file and image."""
        chunk = self.block << (inode.union & CHUNK_BITS_MASK)
        start, length, offset = 0, 0, 0
        for index, address in enumerate(self._addresses(inode, -(-inode.size // chunk))):
            if address == NULL_BLOCK:
                continue
            position = index * chunk
            step = min(chunk, inode.size - position)
            if length and position == start + length and address * self.block == offset + length:
                length += step
                continue
            if length:
                yield Extent(start, length, self.source, offset)
            start, length, offset = position, step, address * self.block
        if length:
            yield Extent(start, length, self.source, offset)

    def _addresses(self, inode: _Inode, count: int) -> Iterator[int]:
        if count > _MAX_CHUNKS:
            raise ValueError("too many chunks")
        if inode.union & CHUNK_INDEXES:
            at = round_up(inode.behind, CHUNK_INDEX.size)
            table = self._bytes(at, count * CHUNK_INDEX.size)
            for _, device, address in CHUNK_INDEX.iter_unpack(table):
                if device and address != NULL_BLOCK:
                    raise ValueError("its data lie in another image, which is not supported")
                yield address
            return
        table = self._bytes(round_up(inode.behind, 4), count * 4)
        yield from (int.from_bytes(table[at : at + 4], "little") for at in range(0, len(table), 4))

    def _bytes(self, offset: int, length: int) -> bytes:
        data = self.data[offset : offset + length]
        if len(data) < length:
            raise ValueError("it ends outside the image")
        return data

    def _content(self, inode: _Inode, limit: int) -> bytes:
        if inode.size > limit:
            raise ValueError(f"{inode.size} bytes")
        parts = (self._bytes(extent.offset, extent.length) for extent in self._extents(inode))
        data = b"".join(parts)
        if len(data) < inode.size:
            raise ValueError("a hole")
        return data

    def _children(self, inode: _Inode) -> dict[bytes, Node]:
        try:
            data = self._content(inode, _MAX_DIRECTORY)
            entries = [
                entry
                for at in range(0, len(data), self.block)
                for entry in _directory_block(data[at : at + self.block])
            ]
        except (StructError, ValueError) as error:
            raise RootfsError(f"{self.path}: the EROFS directory {inode.nid} is damaged ({error})") from None
        return {name: self.node(nid) for name, nid in entries if name not in {b".", b".."}}


def _directory_block(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Names and nids of one block of a directory."""
    size = int.from_bytes(data[8:10], "little")  # the first entry's nameoff: where the entries end
    if size % DIRENT.size or not DIRENT.size <= size < len(data):
        raise ValueError("a broken block of entries")
    entries = [(nid, nameoff) for nid, nameoff, _, _ in DIRENT.iter_unpack(data[:size])]
    ends = [nameoff for _, nameoff in entries[1:]] + [len(data)]
    for (nid, start), end in zip(entries, ends, strict=True):
        name = data[start:end]
        if end == len(data):
            name = name.partition(b"\0")[0]
        if not size <= start < end or not name or b"/" in name or b"\0" in name:
            raise ValueError("a broken entry")
        yield name, nid
