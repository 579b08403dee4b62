"""The journal of a new file system: one superblock, then nothing.

Source: Linux, `include/linux/jbd2.h`; numbers are big-endian.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

HEADER: Final = Struct(">III")
"""`struct journal_header_s`: h_magic, h_blocktype, h_sequence."""
MAGIC: Final = 0xC03B3998
SUPERBLOCK_V2: Final = 4
SUPERBLOCK: Final = Struct(">9I16sI")
"""`struct journal_superblock_s` after its header: s_blocksize, s_maxlen, s_first, s_sequence, s_start, s_errno,
s_feature_compat, s_feature_incompat, s_feature_ro_compat, s_uuid, s_nr_users."""


def superblock(blocks: int, block_size: int, uuid: bytes) -> bytes:
    """The first block's content of an empty journal of so many blocks."""
    head = HEADER.pack(MAGIC, SUPERBLOCK_V2, 0)
    return head + SUPERBLOCK.pack(block_size, blocks, 1, 1, 0, 0, 0, 0, 0, uuid, 1)
