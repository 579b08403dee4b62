"""The on-disk format of ext4, as far as 4 KiB blocks, extents and metadata checksums need it.

Source: Linux, `fs/ext4/ext4.h` and `Documentation/filesystems/ext4/`. All numbers are little-endian (the journal's are
big-endian, see `journal.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

import google_crc32c

BLOCK_BITS: Final = 12
BLOCK: Final = 1 << BLOCK_BITS
SECTORS: Final = BLOCK // 512
"""i_blocks counts in sectors."""
GROUP: Final = 8 * BLOCK
"""Blocks in a group: as many as a bitmap of one block has bits."""
MAX_BLOCKS: Final = 1 << 32
MAX_FILE: Final = ((1 << 32) - 1) * BLOCK
MAX_LINKS: Final = 65000  # EXT4_LINK_MAX
INODE_SIZE: Final = 256
INODES_PER_BLOCK: Final = BLOCK // INODE_SIZE

ROOT_INODE: Final = 2
RESIZE_INODE: Final = 7
JOURNAL_INODE: Final = 8
FIRST_INODE: Final = 11
"""Those before are reserved; mke2fs and we give this one to lost+found."""

SUPERBLOCK_OFFSET: Final = 1024
SUPERBLOCK_SIZE: Final = 1024
MAGIC: Final = 0xEF53

COMPAT_HAS_JOURNAL: Final = 0x4
COMPAT_EXT_ATTR: Final = 0x8
COMPAT_RESIZE_INODE: Final = 0x10
COMPAT_DIR_INDEX: Final = 0x20

INCOMPAT_FILETYPE: Final = 0x2
INCOMPAT_RECOVER: Final = 0x4
INCOMPAT_META_BG: Final = 0x10
INCOMPAT_EXTENTS: Final = 0x40
INCOMPAT_64BIT: Final = 0x80
INCOMPAT_FLEX_BG: Final = 0x200
INCOMPAT_EA_INODE: Final = 0x400
INCOMPAT_CSUM_SEED: Final = 0x2000
INCOMPAT_LARGEDIR: Final = 0x4000
INCOMPAT_NAMES: Final = {
    0x1: "compression",
    0x8: "journal_dev",
    0x100: "mmp",
    0x1000: "dirdata",
    0x8000: "inline_data",
    0x10000: "encrypt",
    0x20000: "casefold",
}
"""Features that are not known here, by mke2fs's names."""

RO_COMPAT_SPARSE_SUPER: Final = 0x1
RO_COMPAT_LARGE_FILE: Final = 0x2
RO_COMPAT_HUGE_FILE: Final = 0x8
RO_COMPAT_DIR_NLINK: Final = 0x20
RO_COMPAT_EXTRA_ISIZE: Final = 0x40
RO_COMPAT_BIGALLOC: Final = 0x200
RO_COMPAT_METADATA_CSUM: Final = 0x400

DESCRIPTOR: Final = Struct("<IIIHHHHIHHHHIIIHHHHIHHI")
"""`struct ext4_group_desc` with 64 bytes: block_bitmap, inode_bitmap, inode_table, free_blocks_count,
free_inodes_count, used_dirs_count, flags, exclude_bitmap, block_bitmap_csum, inode_bitmap_csum, itable_unused,
checksum; then the high halves: block_bitmap, inode_bitmap, inode_table, free_blocks_count, free_inodes_count,
used_dirs_count, itable_unused, exclude_bitmap, block_bitmap_csum, inode_bitmap_csum, reserved."""
DESCRIPTOR_CHECKSUM: Final = 30
DESCRIPTORS_PER_BLOCK: Final = BLOCK // DESCRIPTOR.size
INODE_UNINIT: Final = 0x1
BLOCK_UNINIT: Final = 0x2
ITABLE_ZEROED: Final = 0x4

INODE: Final = Struct("<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIII")
"""`struct ext4_inode` up to i_projid: mode, uid, size_lo, atime, ctime, mtime, dtime, gid, links_count, blocks_lo,
flags, version, block, generation, file_acl_lo, size_high, obso_faddr, blocks_high, file_acl_high, uid_high, gid_high,
checksum_lo, reserved, extra_isize, checksum_hi, ctime_extra, mtime_extra, atime_extra, crtime, crtime_extra,
version_hi; i_projid, four zeros, and xattrs follow."""
INODE_CHECKSUM_LO: Final = 124
EXTRA_ISIZE: Final = 32
INLINE_XATTRS: Final = 128 + EXTRA_ISIZE
"""Where xattrs start within an inode."""
INLINE_DATA: Final = 60
"""Bytes of i_block: a link's target that is shorter lies there."""

FLAG_INDEX: Final = 0x1000
FLAG_EXTENTS: Final = 0x80000
FLAG_VALUE: Final = 0x200000
"""EXT4_EA_INODE_FL: the inode's content is the value of an extended attribute."""

DIRENT: Final = Struct("<IHBB")
"""`struct ext4_dir_entry_2`: inode, rec_len, name_len, file_type; the name follows, padded to 4 bytes."""
DIRECTORY_ROOM: Final = BLOCK - 12
"""Bytes for entries in a block: `struct ext4_dir_entry_tail` with the checksum ends it."""

EXTENT_HEADER: Final = Struct("<HHHHI")
"""`struct ext4_extent_header`: eh_magic, eh_entries, eh_max, eh_depth, eh_generation."""
EXTENT: Final = Struct("<IHHI")
"""`struct ext4_extent`: ee_block, ee_len, ee_start_hi, ee_start_lo."""
EXTENT_INDEX: Final = Struct("<IIHH")
"""`struct ext4_extent_idx`: ei_block, ei_leaf_lo, ei_leaf_hi, ei_unused."""
EXTENT_MAGIC: Final = 0xF30A
EXTENT_BLOCKS: Final = 32768
"""The longest extent; a larger ee_len marks one that is allocated but reads as zeros."""
EXTENTS_IN_INODE: Final = 4
EXTENTS_IN_BLOCK: Final = (BLOCK - EXTENT_HEADER.size - 4) // EXTENT.size

_U32 = Struct("<I")
_INODE_SEED = Struct("<II")
_extend: Callable[[int, bytes], int] = google_crc32c.extend


class Checksum:
    """crc32c as ext4 has it: each kind of metadata continues one that begins with the file system's UUID.

    The kernel's crc32c inverts nothing, the library's inverts at both ends: states here are inverted, results not.
    """

    __slots__ = ("seed",)

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @classmethod
    def of_uuid(cls, uuid: bytes) -> Checksum:
        return cls(_extend(0, uuid))

    def inode_seed(self, number: int, generation: int = 0) -> int:
        """The state from which an inode's own metadata (itself, its directory's and extents' blocks) continue."""
        return _extend(self.seed, _INODE_SEED.pack(number, generation))

    def of(self, data: bytes, *, prefix: bytes = b"") -> int:
        return _extend(self.seed, prefix + data) ^ 0xFFFFFFFF

    def of_inode(self, number: int, inode: bytes, generation: int = 0) -> int:
        """Over an inode with zeros in its checksum's places."""
        return _extend(self.seed, _INODE_SEED.pack(number, generation) + inode) ^ 0xFFFFFFFF

    def of_descriptor(self, group: int, descriptor: bytes) -> int:
        """bg_checksum, over a descriptor with zeros in its place."""
        return _extend(self.seed, _U32.pack(group) + descriptor) & 0xFFFF ^ 0xFFFF


def continued(seed: int, data: bytes) -> int:
    """The checksum of metadata that belong to the inode of `seed`."""
    return _extend(seed, data) ^ 0xFFFFFFFF


def superblock_checksum(superblock: bytes) -> int:
    """s_checksum, over what stands before it."""
    return _extend(0, superblock[: SUPERBLOCK_SIZE - 4]) ^ 0xFFFFFFFF


def blocks_of(size: int) -> int:
    """Blocks that `size` bytes take."""
    return -(-size // BLOCK)
