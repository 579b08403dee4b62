"""Packs inodes, those of the Tree and those that the file system has for itself."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from functools import lru_cache
from struct import Struct

from firekiln.rootfs.ext4 import extents
from firekiln.rootfs.ext4.geometry import Geometry, Layout
from firekiln.rootfs.ext4.layout import (
    BLOCK,
    EXTRA_ISIZE,
    FLAG_EXTENTS,
    FLAG_INDEX,
    FLAG_VALUE,
    INLINE_DATA,
    INODE,
    INODE_CHECKSUM_LO,
    INODE_SIZE,
    JOURNAL_INODE,
    RESIZE_INODE,
    SECTORS,
    Checksum,
)
from firekiln.rootfs.ext4.plan import Inode, Plan, Value
from firekiln.rootfs.tree import Directory, File, Meta

_FIRST_SECOND, _LAST_SECOND = -(1 << 31), (3 << 32) + (1 << 31) - 1
"""32 bits and the sign, and three times 2³² more by the two bits beside the nanoseconds."""
_DOUBTED_FROM, _DOUBTED_TO = (3 << 32) - (1 << 31), 3 << 32
"""2310-04-04 to 2378-04-22: e2fsck takes them for times before 1970, as old kernels wrote those, and "mends" them."""
_DOUBLY_INDIRECT = 13
_SIZE_HALVES = Struct("<II")
_CHECKSUM = Struct("<HHHH")
"""i_checksum_lo and what lies between it and i_checksum_hi: i_reserved, i_extra_isize."""
_COMMON = Struct("<HHI12s4xHHII4x60s4xII4xHHHH4xH2x20s8x96s")
"""INODE with the times in two pieces, without the fields that are always zero, and with the room for xattrs: all of an
inode, as it is made a hundred thousand times.
"""
_pack = _COMMON.pack
_ADDRESSES = BLOCK // 4
_DIRECT = 12


def stored_time(nanoseconds: int) -> int:
    """The nearest time that ext4 has and e2fsck believes, both in nanoseconds."""
    if _FIRST_SECOND * 10**9 <= nanoseconds < _DOUBTED_FROM * 10**9:
        return nanoseconds
    if nanoseconds < 0:
        return _FIRST_SECOND * 10**9
    if nanoseconds >= (_LAST_SECOND + 1) * 10**9:
        return _LAST_SECOND * 10**9
    earlier, later = _DOUBTED_FROM * 10**9 - 1, _DOUBTED_TO * 10**9
    return earlier if nanoseconds < (earlier + later) // 2 else max(nanoseconds, later)


def inode_table(planned: Plan, checksum: Checksum) -> bytearray:
    """All inodes from the first to the last that is in use, reserved ones as zeros."""
    table = bytearray(planned.last_inode * INODE_SIZE)
    for inode in planned.inodes:
        pack_into(table, inode, checksum)
    for content, value in planned.values.items():
        _put(table, value.number, _value_record(value, checksum.of(content)), checksum)
    return table


def pack_into(table: bytearray, inode: Inode, checksum: Checksum) -> None:
    """An inode at its place in the table."""
    meta, size, flags = inode.meta, inode.size, 0
    if inode.data or (isinstance(inode.node, File) and inode.number != RESIZE_INODE):
        flags = FLAG_EXTENTS | FLAG_INDEX if inode.indexed else FLAG_EXTENTS
    times, more_times = _times(meta.mtime_ns)
    uid, gid, sectors, xattrs_at = meta.uid, meta.gid, inode.blocks * SECTORS, inode.xattrs_at
    record = _pack(
        inode.type | meta.mode & 0o7777,
        uid & 0xFFFF,
        size & 0xFFFFFFFF,
        times,
        gid & 0xFFFF,
        inode.nlink,
        sectors & 0xFFFFFFFF,
        flags,
        inode.block,
        xattrs_at & 0xFFFFFFFF,
        size >> 32,
        sectors >> 32,
        xattrs_at >> 32,
        uid >> 16,
        gid >> 16,
        EXTRA_ISIZE,
        more_times,
        inode.xattrs.inline,
    )
    _put(table, inode.number, record, checksum)


@lru_cache(maxsize=4096)
def _times(nanoseconds: int) -> tuple[bytes, bytes]:
    """Access, change and modification of a time, and what stands behind the checksum: their other bits, and birth."""
    seconds, nanoseconds = divmod(stored_time(nanoseconds), 10**9)
    time = (seconds & 0xFFFFFFFF).to_bytes(4, "little")
    extra = (nanoseconds << 2 | seconds + (1 << 31) >> 32).to_bytes(4, "little")
    return 3 * time, 3 * extra + time + extra


def _value_record(inode: Value, content_checksum: int) -> bytes:
    """Where times stand, the inode of an xattr's value keeps its checksum, and how many entries name it."""
    assert inode.references < 1 << 32, "there are fewer inodes"
    sectors = inode.blocks * SECTORS
    record = INODE.pack(
        *(inode.mode | 0o600, 0, inode.size, content_checksum, 0, 0, 0, 0, 1, sectors, FLAG_EXTENTS | FLAG_VALUE),
        *(inode.references, inode.block, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, EXTRA_ISIZE, 0, 0, 0, 0, 0, 0, 0),
    )
    return record.ljust(INODE_SIZE, b"\0")


def _put(table: bytearray, number: int, record: bytes, checksum: Checksum) -> None:
    """An inode's bytes at their place, with their checksum."""
    value = checksum.of_inode(number, record)
    at = (number - 1) * INODE_SIZE
    table[at : at + INODE_SIZE] = record
    _CHECKSUM.pack_into(table, at + INODE_CHECKSUM_LO, value & 0xFFFF, 0, EXTRA_ISIZE, value >> 16)


def journal_inode(layout: Layout, epoch: int, checksum: Checksum) -> Inode:
    """The journal as a file."""
    inode = _own(JOURNAL_INODE, layout.geometry.journal * BLOCK, epoch)
    inode.block, tree = extents.pack(layout.journal, layout.space.take_one, checksum.inode_seed(JOURNAL_INODE))
    assert not tree, "at most two groups long, it is cut once or twice"
    inode.blocks = layout.geometry.journal
    return inode


def kept_of_journal(inode: Inode) -> bytes:
    """What the superblock keeps of the journal's inode: i_block, and the size's halves, the high one first."""
    return inode.block.ljust(INLINE_DATA, b"\0") + _SIZE_HALVES.pack(inode.size >> 32, inode.size & 0xFFFFFFFF)


def resize_inode(layout: Layout, epoch: int) -> Inode:
    """The inode that owns the room for more descriptors: a sparse file of the old kind (e2fsprogs, `res_gdt.c`)."""
    assert layout.resize is not None
    inode = _own(RESIZE_INODE, (_ADDRESSES * _ADDRESSES + _ADDRESSES + _DIRECT) * BLOCK, epoch)
    inode.block = bytes(4 * _DOUBLY_INDIRECT) + layout.resize.to_bytes(4, "little")
    inode.blocks = 1 + layout.geometry.reserved * len(layout.geometry.copies)
    return inode


def _own(number: int, size: int, epoch: int) -> Inode:
    """A file that the file system has for itself."""
    meta = Meta(mode=0o600, mtime_ns=epoch * 10**9)
    node = File(meta=meta, size=size)
    return Inode(path=b"", node=node, type=stat.S_IFREG, number=number, parent=None, meta=meta, size=size)


def directories(planned: Plan, geometry: Geometry) -> list[int]:
    """How many directories each group has."""
    counts = [0] * geometry.groups
    for inode in planned.inodes:
        if isinstance(inode.node, Directory):
            counts[(inode.number - 1) // geometry.inodes_per_group] += 1
    return counts


def table_pieces(layout: Layout, table: bytearray) -> Iterator[tuple[int, memoryview]]:
    """The inode table as it lies in the image, with the block of each piece."""
    size = layout.geometry.table * BLOCK
    rest = memoryview(table)
    for start, count in layout.tables:
        if not rest:
            return
        yield start, rest[: count * size]
        rest = rest[count * size :]
