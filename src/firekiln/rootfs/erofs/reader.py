"""Reads an uncompressed EROFS image as a Tree: what `write` makes, and what `mkfs.erofs` makes without compression.

Lazy: a directory is read when its children are asked for. The image may be hostile: every place in it is checked
against its size, a directory that lies within itself is refused, and so is more metadata than there is room for in the
image, so that time and memory are bounded by its size.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import field
from functools import partial
from operator import lt
from struct import error as StructError  # noqa: N812 - the name says what it is
from typing import NamedTuple

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
from firekiln.rootfs.inodes import MAX_NAMES, MAX_PATH, decode_device
from firekiln.rootfs.overlay import Xattrs, is_opaque, without_overlay
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
from firekiln.values import dataclass

_MAX_PIECES = 5_000_000
"""Extents of all sparse files together."""
_MAX_METAS = 4096
"""How many metadata are remembered, so that files of one package share theirs."""
_PLAIN_EXTENDED = Layout.FLAT_PLAIN << 1 | 1
_TYPE = 0o170000
_EXTENDED_SIZE = INODE_EXTENDED.size
_unpack_extended = INODE_EXTENDED.unpack_from
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


class _Inode(NamedTuple):
    """An inode as it stands in the image. `behind` is the offset after its xattrs."""

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
        size=len(data),
        source=PathSource(path, padded=block == _PADDING and len(data) % _PADDING == 0),
        block=block,
        root_nid=root_nid,
        metadata=meta_block * block,
        shared=shared,
        build_time_ns=build_time * 10**9 + build_time_nsec,
        unspent=len(data),
    )


@dataclass(slots=True, kw_only=True, eq=False)
class _Image:
    path: str
    data: mmap.mmap
    size: int
    source: PathSource
    block: int
    root_nid: int
    metadata: int
    shared: memoryview
    build_time_ns: int
    linked: dict[int, Node] = field(default_factory=dict)
    metas: dict[tuple[int, int, int, int, Xattrs], Meta] = field(default_factory=dict)
    directories: set[int] = field(default_factory=set)
    shared_xattrs: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    unspent: int
    names: int = 0
    pieces: int = 0

    def node(self, nid: int, path: int = 0) -> Node:
        """The node of an inode, whose path has so many bytes: the same object each time for what has several names."""
        known = self.linked.get(nid)
        if known is not None:
            return known
        try:
            inode = self._inode(nid)
            node = self._make(nid, inode, path)
        except (StructError, ValueError, IndexError) as error:
            raise RootfsError(f"{self.path}: the EROFS image is damaged at inode {nid} ({error})") from None
        if inode.nlink > 1 and not isinstance(node, Directory | Whiteout):
            self.linked[nid] = node
        return node

    def _spend(self, length: int) -> None:
        """Metadata of so many bytes are read: each byte belongs to one inode."""
        self.unspent -= length
        if self.unspent < 0:
            raise ValueError("more metadata than the image has room for")

    def _file(self, nid: int) -> File | None:
        """The node of an inode as most are: a file of one name, not sparse, without xattrs. None of any other."""
        offset = self.metadata + nid * SLOT
        if offset > self.size - _EXTENDED_SIZE or self.data[offset] != _PLAIN_EXTENDED:
            return None
        _, icount, mode, _, size, union, _, uid, gid, seconds, nanoseconds, nlink = _unpack_extended(self.data, offset)
        start = union * self.block
        if icount or nlink != 1 or mode & _TYPE != stat.S_IFREG or start + size > self.size:
            return None
        fields = (mode & 0o7777, uid, gid, seconds * 1_000_000_000 + nanoseconds, ())
        meta = self.metas.get(fields) or self._meta(fields)
        return File(meta=meta, size=size, extents=(Extent(0, size, self.source, start),) if size else ())

    def _inode(self, nid: int) -> _Inode:
        offset = self.metadata + nid * SLOT
        form = self.data[offset]
        if form & 1:
            _, icount, mode, _, size, union, _, uid, gid, seconds, nanoseconds, nlink = _unpack_extended(
                self.data, offset
            )
            mtime_ns = seconds * 1_000_000_000 + nanoseconds
            behind = offset + _EXTENDED_SIZE
        else:
            _, icount, mode, nlink, size, _, union, _, uid, gid, _ = INODE_COMPACT.unpack_from(self.data, offset)
            mtime_ns = self.build_time_ns
            behind = offset + INODE_COMPACT.size
        xattrs: Xattrs = ()
        opaque = False
        if icount:
            body, behind = behind, behind + xattr.body_size(icount)
            self._spend(behind - body)
            found = xattr.unpack(self.data[body:behind], self._shared_xattr)
            xattrs, opaque = without_overlay(found), is_opaque(found)
        meta = self._meta((mode & 0o7777, uid, gid, mtime_ns, xattrs))
        return _Inode(mode, form >> 1 & 7, size, union, nlink, meta, opaque, behind)

    def _shared_xattr(self, number: int) -> tuple[bytes, bytes]:
        known = self.shared_xattrs.get(number)
        if known is None:
            known = self.shared_xattrs[number] = xattr.read_entry(self.shared, 4 * number)[0]
            self._spend(len(known[1]))
        return known

    def _meta(self, fields: tuple[int, int, int, int, Xattrs]) -> Meta:
        meta = self.metas.get(fields)
        if meta is None:
            if len(self.metas) >= _MAX_METAS:
                self.metas.clear()
            mode, uid, gid, mtime_ns, xattrs = fields
            meta = self.metas[fields] = Meta(mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns, xattrs=xattrs)
        return meta

    def _make(self, nid: int, inode: _Inode, path: int) -> Node:  # noqa: PLR0911 - one case for each type
        match stat.S_IFMT(inode.mode):
            case stat.S_IFREG:
                return File(meta=inode.meta, size=inode.size, extents=self._extents(inode))
            case stat.S_IFDIR:
                if nid in self.directories:
                    raise ValueError("a directory with two names")
                if path > MAX_PATH:
                    raise ValueError(f"a path of {path} bytes")
                self.directories.add(nid)
                load = partial(self._children, nid, inode, path)
                return Directory(meta=inode.meta, load=load, opaque=inode.opaque)
            case stat.S_IFLNK:
                return Symlink(meta=inode.meta, target=self._target(inode))
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
        extents = tuple(self._mapped(inode))
        for extent in extents:
            if extent.offset + extent.length > self.size:
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
                self.pieces += 1
                yield Extent(start, length, self.source, offset)
            start, length, offset = position, step, address * self.block
        if length:
            yield Extent(start, length, self.source, offset)

    def _addresses(self, inode: _Inode, count: int) -> Iterator[int]:
        self._spend(count * 4)
        if self.pieces > _MAX_PIECES:
            raise ValueError("too many pieces of sparse files")
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
        self._spend(inode.size)
        if inode.layout == Layout.FLAT_INLINE and inode.size < self.block:  # nearly always
            return self._bytes(inode.behind, inode.size)
        parts = (self._bytes(extent.offset, extent.length) for extent in self._extents(inode))
        data = b"".join(parts)
        if len(data) < inode.size:
            raise ValueError("a hole")
        return data

    def _target(self, inode: _Inode) -> bytes:
        target = self._content(inode, self.block)
        if not target or b"\0" in target:
            raise ValueError("a broken link")
        return target

    def _children(self, nid: int, inode: _Inode, path: int) -> dict[bytes, Node]:
        try:
            entries = self._entries(inode)
        except (StructError, ValueError) as error:
            raise RootfsError(f"{self.path}: the EROFS directory {nid} is damaged ({error})") from None
        file, node = self._file, self.node
        return {name: file(number) or node(number, path + 1 + len(name)) for name, number in entries.items()}

    def _entries(self, inode: _Inode) -> dict[bytes, int]:
        data = self._content(inode, _MAX_DIRECTORY)
        entries: dict[bytes, int] = {}
        for at in range(0, len(data), self.block):
            entries.update(_directory_block(data[at : at + self.block]))
        entries.pop(b".", None)
        entries.pop(b"..", None)
        self.names += len(entries)
        if self.names > MAX_NAMES:
            raise ValueError(f"more than {MAX_NAMES} names in all")
        return entries


def _directory_block(data: bytes) -> Iterable[tuple[bytes, int]]:
    """Names and nids of one block of a directory."""
    size = int.from_bytes(data[8:10], "little")  # the first entry's nameoff: where the entries end
    if size % DIRENT.size or not DIRENT.size <= size < len(data):
        raise ValueError("a broken block of entries")
    nids, starts, _, _ = zip(*DIRENT.iter_unpack(data[:size]), strict=True)
    end = data.find(b"\0", starts[-1])
    ends = (*starts[1:], end if end >= 0 else len(data))
    names = data[size : ends[-1]]
    if b"/" in names or b"\0" in names or not all(map(lt, starts, ends)):
        raise ValueError("a broken entry")
    return zip(map(data.__getitem__, map(slice, starts, ends)), nids, strict=True)
