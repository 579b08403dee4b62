"""The on-disk format of EROFS, as far as uncompressed images need it.

Source: Linux, `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst` (6.1 is the oldest kernel meant). All
numbers are little-endian. An inode's number, nid, is its place: byte `meta_blkaddr * block size + 32 * nid`.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final

SUPERBLOCK_OFFSET: Final = 1024
SUPERBLOCK: Final = Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")
"""`struct erofs_super_block`: magic, checksum, feature_compat, blkszbits, sb_extslots, root_nid, inos, build_time,
build_time_nsec, blocks, meta_blkaddr, xattr_blkaddr, uuid, volume_name, feature_incompat, available_compr_algs,
extra_devices, devt_slotoff, dirblkbits, xattr_prefix_count, xattr_prefix_start, packed_nid."""
MAGIC: Final = 0xE0F5E1E2
CHECKSUM_OFFSET: Final = SUPERBLOCK_OFFSET + 4

COMPAT_SB_CHKSUM: Final = 0x1
COMPAT_MTIME: Final = 0x2
INCOMPAT_ZERO_PADDING: Final = 0x1
INCOMPAT_CHUNKED_FILE: Final = 0x4

BLOCK_BITS: Final = 12
BLOCK: Final = 1 << BLOCK_BITS
SLOT: Final = 32
NULL_BLOCK: Final = 0xFFFFFFFF
MAX_BLOCKS: Final = 1 << 32

INODE_COMPACT: Final = Struct("<HHHHIIIIHHI")
"""`struct erofs_inode_compact`: i_format, i_xattr_icount, i_mode, i_nlink, i_size, reserved, i_u, i_ino, i_uid,
i_gid, reserved."""
INODE_EXTENDED: Final = Struct("<HHHHQIIIIqII16x")
"""`struct erofs_inode_extended`: i_format, i_xattr_icount, i_mode, reserved, i_size, i_u, i_ino, i_uid, i_gid,
i_mtime, i_mtime_nsec, i_nlink."""


class Layout(enum.IntEnum):
    """Where an inode's data lie (bits 1 to 3 of i_format; bit 0 says that the inode is an extended one)."""

    FLAT_PLAIN = 0
    COMPRESSED_FULL = 1
    FLAT_INLINE = 2
    COMPRESSED_COMPACT = 3
    CHUNK_BASED = 4


CHUNK_BITS_MASK: Final = 0x1F
"""In i_u of a chunk-based inode: log2 of the chunk's size, less the block's."""
CHUNK_INDEXES: Final = 0x20
"""In i_u of a chunk-based inode: the table has 8-byte entries (advise, device, block), not plain block addresses."""
CHUNK_INDEX: Final = Struct("<HHI")

DIRENT: Final = Struct("<QHBB")
"""`struct erofs_dirent`: nid, nameoff, file_type, reserved. A block's first nameoff tells how many there are."""

XATTR_HEADER: Final = Struct("<IB7x")
"""`struct erofs_xattr_ibody_header`: h_reserved, h_shared_count; 4-byte ids of shared xattrs follow, then entries."""
XATTR_ENTRY: Final = Struct("<BBH")
"""`struct erofs_xattr_entry`: e_name_len, e_name_index, e_value_size; name and value follow, padded to 4 bytes."""
XATTR_PREFIXES: Final = {
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    1: b"user.",
    4: b"trusted.",
    5: b"lustre.",
    6: b"security.",
}
"""By e_name_index. The two ACL names are complete: no more of the name is stored."""


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
