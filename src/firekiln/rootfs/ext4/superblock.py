"""The superblock, field by field."""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, Self

from firekiln.rootfs.ext4.layout import SUPERBLOCK_SIZE, superblock_checksum

_FORMAT: Final = Struct(
    "<IIIIIIIIIIIIIHhHHHHIIIIHH"  # 0 to 83, s_magic at 56
    "IHHIII16s16s64sIBBH"  # 84 to 207, dynamic revision
    "16sIII16sBBHIII68s"  # 208 to 335, journal and directory hash
    "IIIHHIHHQIBBBB"  # 336 to 375, 64-bit halves
)


class Superblock(NamedTuple):
    """`struct ext4_super_block` (Linux, `fs/ext4/ext4.h`) up to s_reserved_pad, without the prefix of its names.

    `jnl_blocks` is i_block of the journal's inode, and its size's halves, the high one first.
    """

    inodes_count: int = 0
    blocks_count_lo: int = 0
    r_blocks_count_lo: int = 0
    free_blocks_count_lo: int = 0
    free_inodes_count: int = 0
    first_data_block: int = 0
    log_block_size: int = 0
    log_cluster_size: int = 0
    blocks_per_group: int = 0
    clusters_per_group: int = 0
    inodes_per_group: int = 0
    mtime: int = 0
    wtime: int = 0
    mnt_count: int = 0
    max_mnt_count: int = -1
    magic: int = 0
    state: int = 0
    errors: int = 0
    minor_rev_level: int = 0
    lastcheck: int = 0
    checkinterval: int = 0
    creator_os: int = 0
    rev_level: int = 0
    def_resuid: int = 0
    def_resgid: int = 0
    first_ino: int = 0
    inode_size: int = 0
    block_group_nr: int = 0
    feature_compat: int = 0
    feature_incompat: int = 0
    feature_ro_compat: int = 0
    uuid: bytes = b""
    volume_name: bytes = b""
    last_mounted: bytes = b""
    algorithm_usage_bitmap: int = 0
    prealloc_blocks: int = 0
    prealloc_dir_blocks: int = 0
    reserved_gdt_blocks: int = 0
    journal_uuid: bytes = b""
    journal_inum: int = 0
    journal_dev: int = 0
    last_orphan: int = 0
    hash_seed: bytes = b""
    def_hash_version: int = 0
    jnl_backup_type: int = 0
    desc_size: int = 0
    default_mount_opts: int = 0
    first_meta_bg: int = 0
    mkfs_time: int = 0
    jnl_blocks: bytes = b""
    blocks_count_hi: int = 0
    r_blocks_count_hi: int = 0
    free_blocks_count_hi: int = 0
    min_extra_isize: int = 0
    want_extra_isize: int = 0
    flags: int = 0
    raid_stride: int = 0
    mmp_interval: int = 0
    mmp_block: int = 0
    raid_stripe_width: int = 0
    log_groups_per_flex: int = 0
    checksum_type: int = 0
    encryption_level: int = 0
    reserved_pad: int = 0

    def pack(self) -> bytes:
        """All SUPERBLOCK_SIZE bytes, with their checksum."""
        packed = _FORMAT.pack(*self).ljust(SUPERBLOCK_SIZE - 4, b"\0")
        return packed + superblock_checksum(packed).to_bytes(4, "little")

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """struct.error where `data` is too short."""
        return cls(*_FORMAT.unpack_from(data))

    @property
    def blocks_count(self) -> int:
        return self.blocks_count_hi << 32 | self.blocks_count_lo
