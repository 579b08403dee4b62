"""Reads an ext4 file system with 4 KiB blocks as a Tree: what `write` makes, and what the kernel makes of it.

Lazy: a directory is read when its children are asked for. The image may be hostile: every place in it is checked
against its size, and a directory that lies within itself is refused. Indexes of large directories are not used, since
their leaves are readable without.
"""

from __future__ import annotations

import mmap
import os
import stat
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from struct import error as StructError  # noqa: N812 - the name says what it is

from firekiln.errors import RootfsError
from firekiln.rootfs.ext4 import directory, extents, xattr
from firekiln.rootfs.ext4.extents import Run
from firekiln.rootfs.ext4.geometry import groups_with_copies
from firekiln.rootfs.ext4.journal import replay
from firekiln.rootfs.ext4.layout import (
    BLOCK,
    BLOCK_BITS,
    DESCRIPTOR,
    FLAG_EXTENTS,
    GROUP,
    INCOMPAT_64BIT,
    INCOMPAT_CSUM_SEED,
    INCOMPAT_EA_INODE,
    INCOMPAT_EXTENTS,
    INCOMPAT_FILETYPE,
    INCOMPAT_FLEX_BG,
    INCOMPAT_LARGEDIR,
    INCOMPAT_META_BG,
    INCOMPAT_RECOVER,
    INLINE_DATA,
    INODE,
    MAGIC,
    ROOT_INODE,
    SUPERBLOCK_OFFSET,
    SUPERBLOCK_SIZE,
    blocks_of,
)
from firekiln.rootfs.ext4.superblock import Superblock
from firekiln.rootfs.inodes import MAX_TARGET, decode_device
from firekiln.rootfs.overlay import is_opaque, without_overlay
from firekiln.rootfs.tree import (
    BytesSource,
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

_KNOWN = (
    INCOMPAT_FILETYPE
    | INCOMPAT_RECOVER
    | INCOMPAT_META_BG
    | INCOMPAT_EXTENTS
    | INCOMPAT_64BIT
    | INCOMPAT_FLEX_BG
    | INCOMPAT_EA_INODE
    | INCOMPAT_CSUM_SEED
    | INCOMPAT_LARGEDIR
)
_MAX_XATTR = 65536  # XATTR_SIZE_MAX
_MAX_DIRECTORY = 1 << 31
_MAX_JOURNAL = 1 << 32
_SMALL_INODE = 128
_SMALL_DESCRIPTOR = 32
_WITH_MTIME_EXTRA = 12
"""i_extra_isize from which on there is i_mtime_extra."""


def read(path: str | os.PathLike[str]) -> Tree:
    """The Tree of the image at `path`, whose files' content are extents of that one file; `lost+found` is in it.

    A journal that was left behind is replayed in memory. RootfsError for what is no ext4 file system with 4 KiB blocks
    and extents, or is damaged; for damage further down when the Tree is walked. Checksums of metadata are left to
    e2fsck. The image must stay as it is for as long as the Tree is used.
    """
    image = _open(os.fspath(path))
    root = image.node(ROOT_INODE)
    if not isinstance(root, Directory):
        raise RootfsError(f"{image.path}: the root of the ext4 file system is no directory")
    return root


def _open(path: str) -> _Image:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - mmap wants a descriptor
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise RootfsError(f"{path}: not an ext4 file system (it is empty)") from None
    if len(data) < SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE:
        raise RootfsError(f"{path}: not an ext4 file system (it is too short)")
    superblock = Superblock.unpack(data[SUPERBLOCK_OFFSET : SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE])
    _check(superblock, path)
    image = _Image(path=path, data=data, source=PathSource(path), superblock=superblock)
    if superblock.feature_incompat & INCOMPAT_RECOVER:
        image.recover()
    return image


def _check(superblock: Superblock, path: str) -> None:
    """Whether the file system can be read here at all."""
    features = superblock.feature_incompat
    if superblock.magic != MAGIC:
        raise RootfsError(f"{path}: not an ext4 file system")
    if features & ~_KNOWN or not features & INCOMPAT_EXTENTS:
        raise RootfsError(f"{path}: the ext4 file system has features that are not known here ({features:#x})")
    if superblock.log_block_size != BLOCK_BITS - 10 or superblock.blocks_per_group != GROUP:
        raise RootfsError(f"{path}: the ext4 file system has other blocks than of {BLOCK} bytes")
    descriptors = DESCRIPTOR.size <= superblock.desc_size <= BLOCK or not features & INCOMPAT_64BIT
    if not _SMALL_INODE <= superblock.inode_size <= BLOCK or not superblock.inodes_per_group or not descriptors:
        raise RootfsError(f"{path}: the ext4 superblock is damaged")


@dataclass(slots=True, kw_only=True)
class _Inode:
    """An inode as it stands in the image; `block` is i_block."""

    number: int
    mode: int
    size: int
    nlink: int
    flags: int
    block: bytes
    meta: Meta
    opaque: bool


@dataclass(slots=True, kw_only=True, eq=False)
class _Image:
    path: str
    data: mmap.mmap
    source: PathSource
    superblock: Superblock
    linked: dict[int, Node] = field(default_factory=dict)
    directories: set[int] = field(default_factory=set)
    newer: dict[int, bytes] = field(default_factory=dict)
    newer_in_order: list[int] = field(default_factory=list)

    def recover(self) -> None:
        """Takes the journal's blocks for those that they are newer than; the image stays as it is."""
        try:
            inode = self._inode(self.superblock.journal_inum)
            places = self._blocks(inode, _MAX_JOURNAL)
            newer = replay(lambda index: self._block(places[index]))
            if 0 in newer:
                self.superblock = Superblock.unpack(newer[0][SUPERBLOCK_OFFSET:])
        except (StructError, ValueError, IndexError) as error:
            hint = "mount and unmount it once, or run e2fsck -p on it"
            raise RootfsError(f"{self.path}: its journal cannot be replayed here ({error})", hint=hint) from None
        _check(self.superblock, self.path)
        self.newer = newer
        self.newer_in_order = sorted(newer)

    def node(self, number: int) -> Node:
        """The node of an inode: the same object each time for what has several names."""
        known = self.linked.get(number)
        if known is not None:
            return known
        try:
            inode = self._inode(number)
            node = self._make(inode)
        except (StructError, ValueError, RecursionError) as error:
            raise RootfsError(f"{self.path}: the ext4 file system is damaged at inode {number} ({error})") from None
        if inode.nlink > 1 and not isinstance(node, Directory | Whiteout):
            self.linked[number] = node
        return node

    def _block(self, number: int) -> bytes:
        data = self.newer.get(number) or self.data[number * BLOCK : (number + 1) * BLOCK]
        if len(data) < BLOCK:
            raise ValueError(f"block {number} lies outside the image")
        return data

    def _raw_inode(self, number: int) -> bytes:
        superblock = self.superblock
        if not 0 < number <= superblock.inodes_count:
            raise ValueError("there is no such inode")
        group, index = divmod(number - 1, superblock.inodes_per_group)
        block, at = divmod(index * superblock.inode_size, BLOCK)
        return self._block(self._inode_table(group) + block)[at : at + superblock.inode_size]

    def _inode_table(self, group: int) -> int:
        superblock = self.superblock
        wide = superblock.feature_incompat & INCOMPAT_64BIT
        size = superblock.desc_size if wide else _SMALL_DESCRIPTOR
        meta_group, index = divmod(group, BLOCK // size)
        place = superblock.first_data_block + 1 + meta_group
        if superblock.feature_incompat & INCOMPAT_META_BG and meta_group >= superblock.first_meta_bg:
            first = group - index
            place = first * GROUP + (first in groups_with_copies(first + 1))
        descriptor = self._block(place)[index * size : (index + 1) * size].ljust(DESCRIPTOR.size, b"\0")
        fields: tuple[int, ...] = DESCRIPTOR.unpack_from(descriptor)
        return fields[2] | (fields[14] << 32 if wide else 0)

    def _inode(self, number: int) -> _Inode:
        raw = self._raw_inode(number)
        fields = INODE.unpack_from(raw.ljust(INODE.size, b"\0"))
        mode, uid, size, _, _, mtime, _, gid, nlink, _ = fields[:10]
        flags, _, block, _, xattrs, size_high, _, _, xattrs_high, uid_high, gid_high = fields[10:21]
        extra_isize, _, _, mtime_extra = fields[23:27]
        if len(raw) == _SMALL_INODE or extra_isize < _WITH_MTIME_EXTRA:
            mtime_extra = 0
        seconds = mtime - ((mtime & 1 << 31) << 1) + ((mtime_extra & 3) << 32)
        pairs = self._xattrs(raw[_SMALL_INODE + extra_isize :], xattrs_high << 32 | xattrs)
        return _Inode(
            number=number,
            mode=mode,
            size=size_high << 32 | size,
            nlink=nlink,
            flags=flags,
            block=block,
            meta=Meta(
                mode=mode & 0o7777,
                uid=uid_high << 16 | uid,
                gid=gid_high << 16 | gid,
                mtime_ns=seconds * 10**9 + (mtime_extra >> 2),
                xattrs=without_overlay(pairs),
            ),
            opaque=is_opaque(pairs),
        )

    def _xattrs(self, inline: bytes, place: int) -> xattr.Xattrs:
        if not place and not any(inline[:4]):
            return ()
        return xattr.unpack(inline, self._block(place) if place else b"", self._xattr_value)

    def _xattr_value(self, number: int, size: int) -> bytes:
        """A value that has an inode to itself (feature ea_inode)."""
        inode = self._inode(number)
        if inode.size != size:
            raise ValueError(f"the value in inode {number} has another size")
        return self._content(inode, _MAX_XATTR)

    def _make(self, inode: _Inode) -> Node:  # noqa: PLR0911 - one case for each type
        match stat.S_IFMT(inode.mode):
            case stat.S_IFREG:
                return File(meta=inode.meta, size=inode.size, extents=tuple(self._extents(inode)))
            case stat.S_IFDIR:
                if inode.number in self.directories:
                    raise ValueError("a directory with two names")
                self.directories.add(inode.number)
                load = partial(self._children, inode)
                return Directory(meta=inode.meta, load=load, opaque=inode.opaque)
            case stat.S_IFLNK:
                return Symlink(meta=inode.meta, target=self._target(inode))
            case stat.S_IFCHR if not any(inode.block[:8]):
                return Whiteout()
            case stat.S_IFCHR | stat.S_IFBLK as kind:
                major, minor = _device(inode.block)
                return Device(meta=inode.meta, block=kind == stat.S_IFBLK, major=major, minor=minor)
            case stat.S_IFIFO:
                return Fifo(meta=inode.meta)
            case stat.S_IFSOCK:
                return Socket(meta=inode.meta)
            case kind:
                raise ValueError(f"file type {kind:#o}")

    def _target(self, inode: _Inode) -> bytes:
        if inode.size < INLINE_DATA and not inode.flags & FLAG_EXTENTS:
            return inode.block[: inode.size]
        return self._content(inode, MAX_TARGET)

    def _runs(self, inode: _Inode) -> Iterator[Run]:
        """The inode's runs, all of them within the image, in order, and within the inode's size."""
        if not inode.flags & FLAG_EXTENTS:
            raise ValueError("its blocks are mapped as in ext3, which is not supported")
        position, blocks = 0, blocks_of(inode.size)
        for logical, physical, length in extents.unpack(inode.block, self._block):
            if logical < position or (physical + length) * BLOCK > len(self.data):
                raise ValueError("a broken extent")
            position = logical + length
            if logical < blocks:
                yield Run(logical, physical, min(length, blocks - logical))

    def _extents(self, inode: _Inode) -> Iterator[Extent]:
        """One extent for all that adjoins in file and image, or is in the journal."""
        start = offset = length = 0
        for run in self._parted(inode):
            at, place, newer = run.logical * BLOCK, run.physical * BLOCK, self.newer.get(run.physical)
            if length and not newer and at == start + length and place == offset + length:
                length += run.length * BLOCK
                continue
            if length:
                yield Extent(start, length, self.source, offset)
                length = 0
            if newer:
                yield Extent(at, min(BLOCK, inode.size - at), BytesSource(newer), 0)
            else:
                start, offset, length = at, place, run.length * BLOCK
        if length:
            yield Extent(start, min(length, inode.size - start), self.source, offset)

    def _parted(self, inode: _Inode) -> Iterator[Run]:
        """The inode's runs, a block that is in the journal being one of its own: with data=journal there are some."""
        for run in self._runs(inode):
            position, end = run.physical, run.physical + run.length
            index = bisect_left(self.newer_in_order, position)
            while position < end:
                cut = min(self.newer_in_order[index], end) if index < len(self.newer_in_order) else end
                if cut == position:
                    cut, index = position + 1, index + 1
                yield Run(run.logical + position - run.physical, position, cut - position)
                position = cut

    def _content(self, inode: _Inode, limit: int) -> bytes:
        """All of it, in memory, for what has no holes."""
        return b"".join(map(self._block, self._blocks(inode, limit)))[: inode.size]

    def _blocks(self, inode: _Inode, limit: int) -> list[int]:
        """Where the blocks of a directory, a link, a value or the journal lie."""
        if inode.size > limit:
            raise ValueError(f"{inode.size} bytes")
        blocks = [block for run in self._runs(inode) for block in range(run.physical, run.physical + run.length)]
        if len(blocks) < blocks_of(inode.size):
            raise ValueError("a hole")
        return blocks

    def _children(self, inode: _Inode) -> dict[bytes, Node]:
        try:
            entries = list(directory.entries_of(self._content(inode, _MAX_DIRECTORY)))
        except (StructError, ValueError, RecursionError) as error:
            raise RootfsError(f"{self.path}: the ext4 directory {inode.number} is damaged ({error})") from None
        return {name: self.node(number) for name, number, _ in entries}


def _device(block: bytes) -> tuple[int, int]:
    """i_block[0] is in the old form, i_block[1] in the new one."""
    if any(block[:4]):
        return block[1], block[0]
    return decode_device(int.from_bytes(block[4:8], "little"))
