"""Packs inodes, those of the Tree and those that the file system has for itself."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from firekiln.rootfs.ext4 import extents
from firekiln.rootfs.ext4.geometry import Geometry, Layout
from firekiln.rootfs.ext4.layout import (
    BLOCK,
    EXTRA_ISIZE,
    FLAG_EXTENTS,
    FLAG_INDEX,
    INLINE_DATA,
    INLINE_XATTRS,
    INODE,
    INODE_CHECKSUM_HI,
    INODE_CHECKSUM_LO,
    INODE_SIZE,
    JOURNAL_INODE,
    RESIZE_INODE,
    SECTORS,
    Checksum,
    continued,
)
from firekiln.rootfs.ext4.placing import Place, Placed
from firekiln.rootfs.ext4.plan import Inode, Plan
from firekiln.rootfs.tree import Directory, File

_FIRST_SECOND, _LAST_SECOND = -(1 << 31), (3 << 32) + (1 << 31) - 1
"""32 bits and the sign, and three times 2³² more by the two bits beside the nanoseconds."""
_DOUBLY_INDIRECT = 13
_SIZE_HALVES = Struct("<II")
_ADDRESSES = BLOCK // 4
_DIRECT = 12


class _Head(NamedTuple):
    mode: int
    uid: int
    gid: int
    links: int
    flags: int
    mtime_ns: int


def stored_time(nanoseconds: int) -> int:
    """The time that ext4 has for one, both in nanoseconds: the kernel's, too, stops at the ends of the range."""
    if _FIRST_SECOND * 10**9 <= nanoseconds < (_LAST_SECOND + 1) * 10**9:
        return nanoseconds
    return (_FIRST_SECOND if nanoseconds < 0 else _LAST_SECOND) * 10**9


def inode_table(planned: Plan, placed: Placed, checksum: Checksum) -> bytearray:
    """All inodes from the first to the last that is in use, reserved ones as zeros."""
    table = bytearray(planned.last_inode * INODE_SIZE)
    for inode, place in zip(planned.inodes, placed.places, strict=True):
        at = (inode.number - 1) * INODE_SIZE
        table[at : at + INODE_SIZE] = _pack(inode, place, checksum)
    return table


def _pack(inode: Inode, place: Place, checksum: Checksum) -> bytes:
    flags = FLAG_INDEX if inode.indexed else 0
    if inode.data or isinstance(inode.node, File | Directory):
        flags |= FLAG_EXTENTS
    meta = inode.meta
    head = _Head(mode=inode.mode, uid=meta.uid, gid=meta.gid, links=inode.nlink, flags=flags, mtime_ns=meta.mtime_ns)
    return _record(head, inode.size, place, checksum.inode_seed(inode.number), inode.xattrs.inline)


def _own(number: int, flags: int, size: int, place: Place, *, epoch: int, checksum: Checksum) -> bytes:
    """An inode that the file system has for itself."""
    head = _Head(mode=stat.S_IFREG | 0o600, uid=0, gid=0, links=1, flags=flags, mtime_ns=epoch * 10**9)
    return _record(head, size, place, checksum.inode_seed(number))


def _record(head: _Head, size: int, place: Place, seed: int, xattrs: bytes = b"") -> bytes:
    """An inode's 256 bytes; `seed` is its checksum state."""
    seconds, nanoseconds = divmod(stored_time(head.mtime_ns), 10**9)
    time = seconds & 0xFFFFFFFF
    extra = nanoseconds << 2 | seconds + (1 << 31) >> 32
    sectors = place.blocks * SECTORS
    record = bytearray(INODE_SIZE)
    INODE.pack_into(
        record,
        0,
        *(head.mode, head.uid & 0xFFFF, size & 0xFFFFFFFF, time, time, time, 0, head.gid & 0xFFFF, head.links),
        *(sectors & 0xFFFFFFFF, head.flags, 0, place.block, 0, place.xattrs & 0xFFFFFFFF, size >> 32, 0),
        *(sectors >> 32, place.xattrs >> 32, head.uid >> 16, head.gid >> 16, 0, 0, EXTRA_ISIZE, 0),
        *(extra, extra, extra, time, extra, 0),
    )
    record[INLINE_XATTRS : INLINE_XATTRS + len(xattrs)] = xattrs
    value = continued(seed, bytes(record))
    record[INODE_CHECKSUM_LO : INODE_CHECKSUM_LO + 2] = (value & 0xFFFF).to_bytes(2, "little")
    record[INODE_CHECKSUM_HI : INODE_CHECKSUM_HI + 2] = (value >> 16).to_bytes(2, "little")
    return bytes(record)


def journal_inode(layout: Layout, epoch: int, checksum: Checksum) -> tuple[bytes, bytes]:
    """The journal's inode, and what the superblock keeps of it: i_block, and the size's halves, the high one first."""
    blocks = layout.geometry.journal
    block, tree = extents.pack(layout.journal, layout.space.take_one, checksum.inode_seed(JOURNAL_INODE))
    assert not tree, "at most two groups long, it is cut once or twice"
    size = blocks * BLOCK
    place = Place(block=block, blocks=blocks, xattrs=0)
    record = _own(JOURNAL_INODE, FLAG_EXTENTS, size, place, epoch=epoch, checksum=checksum)
    return record, block.ljust(INLINE_DATA, b"\0") + _SIZE_HALVES.pack(size >> 32, size & 0xFFFFFFFF)


def resize_inode(layout: Layout, epoch: int, checksum: Checksum) -> bytes:
    """The inode that owns the room for more descriptors: a sparse file of the old kind (e2fsprogs, `res_gdt.c`)."""
    assert layout.resize is not None
    geometry = layout.geometry
    block = bytes(4 * _DOUBLY_INDIRECT) + layout.resize.to_bytes(4, "little")
    blocks = 1 + geometry.reserved * len(geometry.copies)
    size = (_ADDRESSES * _ADDRESSES + _ADDRESSES + _DIRECT) * BLOCK
    place = Place(block=block, blocks=blocks, xattrs=0)
    return _own(RESIZE_INODE, 0, size, place, epoch=epoch, checksum=checksum)


def directories(planned: Plan, geometry: Geometry) -> list[int]:
    """How many directories each group has."""
    counts = [0] * geometry.groups
    for inode in planned.inodes:
        if isinstance(inode.node, Directory):
            counts[(inode.number - 1) // geometry.inodes_per_group] += 1
    return counts


def table_pieces(layout: Layout, table: bytearray) -> Iterator[tuple[int, bytes]]:
    """The inode table as it lies in the image, with the block of each piece."""
    size = layout.geometry.table * BLOCK
    at = 0
    for start, count in layout.tables:
        if at >= len(table):
            return
        yield start, bytes(table[at : at + count * size])
        at += count * size
