"""Reads an ext4 file system with 4 KiB blocks as a Tree: what `write` makes, and what the kernel makes of it.

Lazy: a directory is read when its children are asked for. The image may be hostile (a guest wrote it): every place in
it is checked against its size, a directory that lies within itself is refused, and so is a block of a directory or of
a tree of extents that is met twice, so that time and memory are bounded by what the image really holds. Indexes of
large directories are not used, since their leaves are readable without.
"""

from __future__ import annotations

import mmap
import os
import stat
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import partial
from struct import error as StructError  # noqa: N812 - the name says what it is

from firekiln.errors import RootfsError
from firekiln.rootfs.ext4 import directory, extents, xattr
from firekiln.rootfs.ext4.extents import Run
from firekiln.rootfs.ext4.geometry import groups_with_copies
from firekiln.rootfs.ext4.journal import Copy, content, replay
from firekiln.rootfs.ext4.layout import (
    BLOCK,
    BLOCK_BITS,
    DESCRIPTOR,
    FLAG_EXTENTS,
    FLAG_VALUE,
    GROUP,
    INCOMPAT_64BIT,
    INCOMPAT_CSUM_SEED,
    INCOMPAT_EA_INODE,
    INCOMPAT_EXTENTS,
    INCOMPAT_FILETYPE,
    INCOMPAT_FLEX_BG,
    INCOMPAT_LARGEDIR,
    INCOMPAT_META_BG,
    INCOMPAT_NAMES,
    INCOMPAT_RECOVER,
    INLINE_DATA,
    INODE,
    MAGIC,
    RO_COMPAT_BIGALLOC,
    ROOT_INODE,
    SUPERBLOCK_OFFSET,
    SUPERBLOCK_SIZE,
    blocks_of,
)
from firekiln.rootfs.ext4.superblock import Superblock
from firekiln.rootfs.inodes import MAX_NAMES, MAX_PATH, MAX_TARGET, decode_device
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
from firekiln.values import dataclass

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
_DAMAGE = (StructError, ValueError, IndexError, RecursionError)
_HINT = "run e2fsck -f on it"
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
    if unknown := _unknown(superblock):
        raise RootfsError(f"{path}: the ext4 file system has features that are not known here: {unknown}")
    if superblock.log_block_size != BLOCK_BITS - 10 or superblock.blocks_per_group != GROUP:
        raise RootfsError(f"{path}: the ext4 file system has other blocks than of {BLOCK} bytes")
    descriptors = DESCRIPTOR.size <= superblock.desc_size <= BLOCK or not features & INCOMPAT_64BIT
    if not _SMALL_INODE <= superblock.inode_size <= BLOCK or not superblock.inodes_per_group or not descriptors:
        raise RootfsError(f"{path}: the ext4 superblock is damaged")


def _unknown(superblock: Superblock) -> str:
    """The features that forbid reading, by name; empty where there are none."""
    features = superblock.feature_incompat
    rest = features & ~_KNOWN
    names = [name for bit, name in INCOMPAT_NAMES.items() if rest & bit]
    if other := rest & ~sum(INCOMPAT_NAMES):
        names.append(f"{other:#x}")
    if superblock.feature_ro_compat & RO_COMPAT_BIGALLOC:
        names.append("bigalloc")
    if not features & INCOMPAT_EXTENTS:
        names.append("none of extents")
    return ", ".join(names)


@dataclass(slots=True, kw_only=True)
class _Inode:
    """An inode as it stands in the image; `block` is i_block, `rest` what follows i_extra_isize."""

    number: int
    mode: int
    size: int
    nlink: int
    flags: int
    block: bytes
    uid: int
    gid: int
    mtime_ns: int
    xattrs_at: int
    rest: bytes


@dataclass(slots=True, kw_only=True, eq=False)
class _Image:
    path: str
    data: mmap.mmap
    source: PathSource
    superblock: Superblock
    linked: dict[int, Node] = field(default_factory=dict)
    directories: set[int] = field(default_factory=set)
    claimed: set[int] = field(default_factory=set)
    names: int = 0
    xattr_blocks: dict[int, xattr.Xattrs] = field(default_factory=dict)
    xattr_values: dict[int, bytes] = field(default_factory=dict)
    journal: list[int] = field(default_factory=list)
    newer: Mapping[int, Copy] = field(default_factory=dict)
    newer_in_order: list[int] = field(default_factory=list)

    def recover(self) -> None:
        """Takes the journal's blocks for those that they are newer than; the image stays as it is."""
        try:
            self.journal = self._blocks(self._inode(self.superblock.journal_inum), _MAX_JOURNAL)
            newer = replay(lambda index: self._stored(self.journal[index]))
            if 0 in newer:
                block = content(newer[0], self._stored(self.journal[newer[0].place]))
                self.superblock = Superblock.unpack(block[SUPERBLOCK_OFFSET:])
        except _DAMAGE as error:
            hint = "mount and unmount it once, or run e2fsck -p on it"
            raise RootfsError(f"{self.path}: its journal cannot be replayed here ({error})", hint=hint) from None
        _check(self.superblock, self.path)
        self.newer = newer
        self.newer_in_order = sorted(newer)
        self.claimed.clear()  # the journal may have moved or lost what it lies in

    def node(self, number: int, path: int = 0) -> Node:
        """The node of an inode, whose path has so many bytes: the same object each time for what has several names."""
        known = self.linked.get(number)
        if known is not None:
            return known
        try:
            inode = self._inode(number)
            node = self._make(inode, path)
        except _DAMAGE as error:
            message = f"{self.path}: the ext4 file system is damaged at inode {number} ({error})"
            raise RootfsError(message, hint=_HINT) from None
        if inode.nlink > 1 and not isinstance(node, Directory | Whiteout):
            self.linked[number] = node
        return node

    def _stored(self, number: int) -> bytes:
        """A block as it lies in the image."""
        data = self.data[number * BLOCK : (number + 1) * BLOCK]
        if len(data) < BLOCK:
            raise ValueError(f"block {number} lies outside the image")
        return data

    def _block(self, number: int) -> bytes:
        """A block as it is once the journal is replayed."""
        newer = self.newer.get(number)
        return self._stored(number) if newer is None else content(newer, self._stored(self.journal[newer.place]))

    def _claim(self, number: int) -> bytes:
        """A block that belongs to one directory, or to one file's tree of extents."""
        if number in self.claimed:
            raise ValueError(f"block {number} is used twice")
        self.claimed.add(number)
        return self._block(number)

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
        return _Inode(
            number=number,
            mode=mode,
            size=size_high << 32 | size,
            nlink=nlink,
            flags=flags,
            block=block,
            uid=uid_high << 16 | uid,
            gid=gid_high << 16 | gid,
            mtime_ns=seconds * 10**9 + (mtime_extra >> 2),
            xattrs_at=xattrs_high << 32 | xattrs,
            rest=raw[_SMALL_INODE + extra_isize :],
        )

    def _xattrs(self, inode: _Inode) -> xattr.Xattrs:
        """Sorted, each name once. What a block says is kept, since many inodes may share one."""
        if not inode.xattrs_at and not any(inode.rest[:4]):
            return ()
        pairs = xattr.unpack_inline(inode.rest, self._xattr_value)
        if place := inode.xattrs_at:
            if place not in self.xattr_blocks:
                self.xattr_blocks[place] = xattr.unpack_block(self._block(place), self._xattr_value)
            pairs += self.xattr_blocks[place]
        return tuple(sorted(dict(pairs).items()))

    def _xattr_value(self, number: int, size: int) -> bytes:
        """A value that has an inode to itself (feature ea_inode), which several inodes may share."""
        value = self.xattr_values.get(number)
        if value is None:
            inode = self._inode(number)
            if not inode.flags & FLAG_VALUE:
                raise ValueError(f"inode {number} holds no value of an extended attribute")
            value = self.xattr_values[number] = self._content(inode, _MAX_XATTR)
        if len(value) != size:
            raise ValueError(f"the value in inode {number} has another size")
        return value

    def _make(self, inode: _Inode, path: int) -> Node:  # noqa: PLR0911 - one case for each type
        kind = stat.S_IFMT(inode.mode)
        if kind == stat.S_IFCHR and not any(inode.block[:8]):
            return Whiteout()
        pairs = self._xattrs(inode)
        xattrs = without_overlay(pairs)
        meta = Meta(mode=inode.mode & 0o7777, uid=inode.uid, gid=inode.gid, mtime_ns=inode.mtime_ns, xattrs=xattrs)
        match kind:
            case stat.S_IFREG:
                return File(meta=meta, size=inode.size, extents=tuple(self._extents(inode)))
            case stat.S_IFDIR:
                if inode.number in self.directories:
                    raise ValueError("a directory with two names")
                if path > MAX_PATH:
                    raise ValueError(f"a path of {path} bytes")
                self.directories.add(inode.number)
                return Directory(meta=meta, load=partial(self._children, inode, path), opaque=is_opaque(pairs))
            case stat.S_IFLNK:
                return Symlink(meta=meta, target=self._target(inode))
            case stat.S_IFCHR | stat.S_IFBLK:
                major, minor = _device(inode.block)
                return Device(meta=meta, block=kind == stat.S_IFBLK, major=major, minor=minor)
            case stat.S_IFIFO:
                return Fifo(meta=meta)
            case stat.S_IFSOCK:
                return Socket(meta=meta)
            case _:
                raise ValueError(f"file type {kind:#o}")

    def _target(self, inode: _Inode) -> bytes:
        inline = inode.size < INLINE_DATA and not inode.flags & FLAG_EXTENTS
        target = inode.block[: inode.size] if inline else self._content(inode, MAX_TARGET)
        if not target or b"\0" in target:
            raise ValueError("a broken link")
        return target

    def _runs(self, inode: _Inode) -> Iterator[Run]:
        """The inode's runs, all of them within the image, in order, and within the inode's size."""
        if not inode.flags & FLAG_EXTENTS:
            raise ValueError("its blocks are mapped as in ext3, which is not supported")
        position, blocks = 0, blocks_of(inode.size)
        for logical, physical, length in extents.unpack(inode.block, self._claim):
            if logical < position or (physical + length) * BLOCK > len(self.data):
                raise ValueError("a broken extent")
            position = logical + length
            if logical < blocks:
                yield Run(logical, physical, min(length, blocks - logical))

    def _extents(self, inode: _Inode) -> Iterator[Extent]:
        """One extent for all that adjoins in file and image; blocks that are newer in the journal are their own."""
        start = offset = length = 0
        for run in self._parted(inode):
            at, place, newer = run.logical * BLOCK, run.physical * BLOCK, run.physical in self.newer
            if length and not newer and at == start + length and place == offset + length:
                length += run.length * BLOCK
                continue
            if length:
                yield Extent(start, length, self.source, offset)
                length = 0
            if newer:
                yield Extent(at, min(BLOCK, inode.size - at), BytesSource(self._block(run.physical)), 0)
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

    def _children(self, inode: _Inode, path: int) -> dict[bytes, Node]:
        try:
            blocks = self._blocks(inode, _MAX_DIRECTORY)
            if inode.size % BLOCK:
                raise ValueError(f"{inode.size} bytes")
            entries: list[directory.Entry] = []
            for block in blocks:
                entries.extend(directory.entries_of(self._claim(block)))
                if self.names + len(entries) > MAX_NAMES:
                    raise ValueError(f"more than {MAX_NAMES} names in all")
        except _DAMAGE as error:
            message = f"{self.path}: the ext4 directory {inode.number} is damaged ({error})"
            raise RootfsError(message, hint=_HINT) from None
        self.names += len(entries)
        return {name: self.node(number, path + 1 + len(name)) for name, number, _ in entries}


def _device(block: bytes) -> tuple[int, int]:
    """i_block[0] is in the old form, i_block[1] in the new one."""
    if any(block[:4]):
        return block[1], block[0]
    return decode_device(int.from_bytes(block[4:8], "little"))
