"""Superblock, group descriptors, bitmaps and the resize inode's blocks of an image whose every block has its place."""

from __future__ import annotations

import array
import sys
from collections.abc import Iterator

from firekiln.rootfs.ext4.dirhash import HALF_MD4
from firekiln.rootfs.ext4.extents import Run
from firekiln.rootfs.ext4.geometry import Geometry, Layout
from firekiln.rootfs.ext4.layout import (
    BLOCK,
    BLOCK_BITS,
    BLOCK_UNINIT,
    COMPAT_DIR_INDEX,
    COMPAT_EXT_ATTR,
    COMPAT_HAS_JOURNAL,
    COMPAT_RESIZE_INODE,
    DESCRIPTOR,
    DESCRIPTOR_CHECKSUM,
    EXTRA_ISIZE,
    FIRST_INODE,
    GROUP,
    INCOMPAT_64BIT,
    INCOMPAT_EA_INODE,
    INCOMPAT_EXTENTS,
    INCOMPAT_FILETYPE,
    INCOMPAT_FLEX_BG,
    INODE_SIZE,
    INODE_UNINIT,
    ITABLE_ZEROED,
    JOURNAL_INODE,
    MAGIC,
    RO_COMPAT_DIR_NLINK,
    RO_COMPAT_EXTRA_ISIZE,
    RO_COMPAT_HUGE_FILE,
    RO_COMPAT_LARGE_FILE,
    RO_COMPAT_METADATA_CSUM,
    RO_COMPAT_SPARSE_SUPER,
    SUPERBLOCK_OFFSET,
    Checksum,
)
from firekiln.rootfs.ext4.superblock import Superblock
from firekiln.values import dataclass

_INCOMPAT = INCOMPAT_FILETYPE | INCOMPAT_EXTENTS | INCOMPAT_64BIT | INCOMPAT_FLEX_BG
_RO_COMPAT = (
    RO_COMPAT_SPARSE_SUPER
    | RO_COMPAT_LARGE_FILE
    | RO_COMPAT_HUGE_FILE
    | RO_COMPAT_DIR_NLINK
    | RO_COMPAT_EXTRA_ISIZE
    | RO_COMPAT_METADATA_CSUM
)
_VALID, _CONTINUE_ON_ERRORS, _DYNAMIC_REVISION, _CRC32C = 1, 1, 1, 1
_USER_XATTRS_AND_ACLS = 0xC
_UNSIGNED_HASH = 2
_BACKUP_OF_JOURNAL_INODE = 1
_GROUPS_PER_FLEX_BITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the file system is: `uuid` and `hash_seed` are 16 bytes, `label` at most 16, `epoch` its time of birth."""

    uuid: bytes
    hash_seed: bytes
    label: bytes
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the superblock keeps of the inodes: a copy of the journal's, empty without one; whether there are values of
    extended attributes among them.
    """

    journal_inode: bytes
    values: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group's descriptor and its bitmaps with their places; a bitmap is empty where the descriptor says UNINIT."""

    descriptor: bytes
    block_bitmap: bytes
    inode_bitmap: bytes
    block_bitmap_at: int
    inode_bitmap_at: int
    free_blocks: int
    free_inodes: int

    def bitmaps(self) -> Iterator[tuple[int, bytes]]:
        """Those that are to be written, with their offsets in bytes."""
        if self.block_bitmap:
            yield self.block_bitmap_at * BLOCK, self.block_bitmap
        if self.inode_bitmap:
            yield self.inode_bitmap_at * BLOCK, self.inode_bitmap


def groups(layout: Layout, *, last_inode: int, directories: list[int], checksum: Checksum) -> Iterator[Group]:
    """All groups; inodes up to `last_inode` are in use, `directories` counts those of each group."""
    geometry = layout.geometry
    places = zip(_each(layout.block_bitmaps), _each(layout.inode_bitmaps), _tables(layout), strict=True)
    for index, (block_bitmap_at, inode_bitmap_at, table) in enumerate(places):
        block_bitmap, free_blocks = _block_bitmap(layout, index)
        used = min(max(last_inode - index * geometry.inodes_per_group, 0), geometry.inodes_per_group)
        inode_bitmap = _ones(used) | _ones(BLOCK * 8, geometry.inodes_per_group) if used else 0
        inodes = inode_bitmap.to_bytes(BLOCK, "little") if used else b""
        yield Group(
            descriptor=_descriptor(
                index,
                (block_bitmap_at, inode_bitmap_at, table),
                (free_blocks, geometry.inodes_per_group - used, directories[index]),
                (block_bitmap, inodes[: geometry.inodes_per_group // 8]),
                checksum,
            ),
            block_bitmap=block_bitmap,
            inode_bitmap=inodes,
            block_bitmap_at=block_bitmap_at,
            inode_bitmap_at=inode_bitmap_at,
            free_blocks=free_blocks,
            free_inodes=geometry.inodes_per_group - used,
        )


def _each(runs: list[Run]) -> Iterator[int]:
    for run in runs:
        yield from range(run.physical, run.physical + run.length)


def _tables(layout: Layout) -> Iterator[int]:
    for start, count in layout.tables:
        yield from range(start, start + count * layout.geometry.table, layout.geometry.table)


def _ones(end: int, start: int = 0) -> int:
    """A bitmap with the bits from `start` up to `end` set."""
    return (1 << end) - (1 << start)


def _block_bitmap(layout: Layout, index: int) -> tuple[bytes, int]:
    """A group's bitmap, empty where nothing but its own head is in use, and how many of its blocks are free."""
    geometry, used_up_to = layout.geometry, layout.space.next
    first = index * GROUP
    length = min(geometry.blocks - first, GROUP)
    head = geometry.head if index in geometry.copies else 0
    if used_up_to <= first and index != geometry.groups - 1:  # e2fsck wants the last one's
        return b"", GROUP - head
    bits = _ones(max(min(used_up_to - first, length), head))
    for start, count in layout.space.gaps:
        if first <= start < first + length:
            bits &= ~_ones(start - first + count, start - first)
    free = length - bits.bit_count()
    return (bits | _ones(GROUP, length)).to_bytes(BLOCK, "little"), free


def _descriptor(
    index: int,
    places: tuple[int, int, int],
    counts: tuple[int, int, int],
    bitmaps: tuple[bytes, bytes],
    checksum: Checksum,
) -> bytes:
    block_bitmap, inode_bitmap = bitmaps
    flags = ITABLE_ZEROED | (0 if block_bitmap else BLOCK_UNINIT) | (0 if inode_bitmap else INODE_UNINIT)
    unused = counts[1]  # inodes are used from the table's front on
    sums = [checksum.of(bitmap) if bitmap else 0 for bitmap in bitmaps]
    low = [value & 0xFFFFFFFF for value in places], [value & 0xFFFF for value in counts]
    high = [value >> 32 for value in places], [value >> 16 for value in counts]
    sums_low, sums_high = [value & 0xFFFF for value in sums], [value >> 16 for value in sums]
    low_half = *low[0], *low[1], flags, 0, *sums_low, unused & 0xFFFF, 0
    high_half = *high[0], *high[1], unused >> 16, 0, *sums_high, 0
    descriptor = bytearray(DESCRIPTOR.pack(*low_half, *high_half))
    value = checksum.of_descriptor(index, bytes(descriptor))
    descriptor[DESCRIPTOR_CHECKSUM : DESCRIPTOR_CHECKSUM + 2] = value.to_bytes(2, "little")
    return bytes(descriptor)


def superblock(
    geometry: Geometry, identity: Identity, *, free_blocks: int, free_inodes: int, kept: Kept, group: int
) -> Superblock:
    """The superblock in `group`."""
    compat = COMPAT_EXT_ATTR | COMPAT_DIR_INDEX
    compat |= (COMPAT_HAS_JOURNAL if geometry.journal else 0) | (COMPAT_RESIZE_INODE if geometry.reserved else 0)
    return Superblock(
        inodes_count=geometry.inodes,
        blocks_count_lo=geometry.blocks & 0xFFFFFFFF,
        blocks_count_hi=geometry.blocks >> 32,
        free_blocks_count_lo=free_blocks & 0xFFFFFFFF,
        free_blocks_count_hi=free_blocks >> 32,
        free_inodes_count=free_inodes,
        log_block_size=BLOCK_BITS - 10,
        log_cluster_size=BLOCK_BITS - 10,
        blocks_per_group=GROUP,
        clusters_per_group=GROUP,
        inodes_per_group=geometry.inodes_per_group,
        wtime=identity.epoch,
        lastcheck=identity.epoch,
        mkfs_time=identity.epoch,
        magic=MAGIC,
        state=_VALID,
        errors=_CONTINUE_ON_ERRORS,
        rev_level=_DYNAMIC_REVISION,
        first_ino=FIRST_INODE,
        inode_size=INODE_SIZE,
        block_group_nr=group,
        feature_compat=compat,
        feature_incompat=_INCOMPAT | (INCOMPAT_EA_INODE if kept.values else 0),
        feature_ro_compat=_RO_COMPAT,
        uuid=identity.uuid,
        volume_name=identity.label,
        reserved_gdt_blocks=geometry.reserved,
        journal_inum=JOURNAL_INODE if geometry.journal else 0,
        jnl_backup_type=_BACKUP_OF_JOURNAL_INODE if geometry.journal else 0,
        jnl_blocks=kept.journal_inode,
        hash_seed=identity.hash_seed,
        def_hash_version=HALF_MD4,
        desc_size=DESCRIPTOR.size,
        default_mount_opts=_USER_XATTRS_AND_ACLS,
        min_extra_isize=EXTRA_ISIZE,
        want_extra_isize=EXTRA_ISIZE,
        flags=_UNSIGNED_HASH,
        log_groups_per_flex=_GROUPS_PER_FLEX_BITS,
        checksum_type=_CRC32C,
    )


def copies(geometry: Geometry, identity: Identity, all_groups: list[Group], kept: Kept) -> Iterator[tuple[int, bytes]]:
    """Superblock and descriptors, at the offset in bytes of each of their copies, the first one included."""
    descriptors = b"".join(group.descriptor for group in all_groups)
    free_blocks = sum(group.free_blocks for group in all_groups)
    free_inodes = sum(group.free_inodes for group in all_groups)
    for index in geometry.copies:
        block = superblock(
            geometry,
            identity,
            free_blocks=free_blocks,
            free_inodes=free_inodes,
            kept=kept,
            group=index & 0xFFFF,  # as the kernel does: s_block_group_nr has 16 bits
        ).pack()
        padding = 0 if index else SUPERBLOCK_OFFSET  # group 0 leaves room for a boot sector
        yield index * GROUP * BLOCK, bytes(padding) + block.ljust(BLOCK - padding, b"\0") + descriptors


def resize_blocks(layout: Layout) -> tuple[bytes, bytes]:
    """The resize inode's doubly indirect block, and the reserved blocks behind the descriptors of group 0.

    Each reserved block lists its namesakes in the groups with copies (e2fsprogs, `ext2fs_create_resize_inode`).
    """
    geometry = layout.geometry
    first = 1 + geometry.descriptors
    entries = BLOCK // 4
    doubly = array.array("I", bytes(BLOCK))
    others = [group * GROUP for group in geometry.copies[1:]]
    reserved = array.array("I", bytes(geometry.reserved * BLOCK))
    for index in range(geometry.reserved):
        place = first + index
        doubly[(geometry.descriptors + index) % entries] = place
        for position, group in enumerate(others):
            reserved[index * entries + position] = place + group
    if sys.byteorder == "big":
        doubly.byteswap()
        reserved.byteswap()
    return doubly.tobytes(), reserved.tobytes()
