"""The journal: the superblock of a new one, and what a used one says of the file system after a crash.

Source: Linux, `include/linux/jbd2.h`, `fs/jbd2/recovery.c`; numbers are big-endian. A transaction is a row of
descriptor blocks, each followed by the blocks that it lists, and blocks that revoke earlier copies, ended by a commit
block; it counts only with that one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import field
from struct import Struct
from typing import Final, NamedTuple

import google_crc32c

from firekiln.values import dataclass

HEADER: Final = Struct(">III")
"""`struct journal_header_s`: h_magic, h_blocktype, h_sequence."""
MAGIC: Final = 0xC03B3998
_SUPERBLOCK_V2: Final = 4
SUPERBLOCK: Final = Struct(">9I16sI")
"""`struct journal_superblock_s` after its header: s_blocksize, s_maxlen, s_first, s_sequence, s_start, s_errno,
s_feature_compat, s_feature_incompat, s_feature_ro_compat, s_uuid, s_nr_users."""


class _Kind(enum.IntEnum):
    DESCRIPTOR = 1
    COMMIT = 2
    REVOKE = 5


_INCOMPAT_REVOKE, _INCOMPAT_64BIT, _INCOMPAT_ASYNC_COMMIT, _INCOMPAT_CSUM_V3 = 0x1, 0x2, 0x4, 0x10
_KNOWN: Final = _INCOMPAT_REVOKE | _INCOMPAT_64BIT | _INCOMPAT_ASYNC_COMMIT | _INCOMPAT_CSUM_V3
_TAG_V3: Final = Struct(">IIII")
"""`journal_block_tag3_t`: t_blocknr, t_flags, t_blocknr_high, t_checksum."""
_TAG: Final = Struct(">IHH")
"""`journal_block_tag_t`: t_blocknr, t_checksum, t_flags; four bytes of t_blocknr_high follow with 64BIT."""
_ESCAPED, _SAME_UUID, _LAST_TAG = 0x1, 0x2, 0x8
_UUID: Final = 16
_U32 = Struct(">I")
_MAGIC_BYTES: Final = _U32.pack(MAGIC)


def superblock(blocks: int, block_size: int, uuid: bytes) -> bytes:
    """The first block's content of an empty journal of so many blocks."""
    head = HEADER.pack(MAGIC, _SUPERBLOCK_V2, 0)
    return head + SUPERBLOCK.pack(block_size, blocks, 1, 1, 0, 0, 0, 0, 0, uuid, 1)


class Copy(NamedTuple):
    """Where a newer content lies: the journal's block `place`. `escaped`: its first four bytes are to be MAGIC's."""

    place: int
    escaped: bool


@dataclass(slots=True, kw_only=True)
class _Transaction:
    """Blocks with their new content, and those of which no content of this or an earlier transaction counts."""

    sequence: int
    blocks: dict[int, Copy] = field(default_factory=dict)
    revoked: set[int] = field(default_factory=set)


def content(copy: Copy, block: bytes) -> bytes:
    """The content of a copy, of which `block` lies in the journal."""
    return _MAGIC_BYTES + block[4:] if copy.escaped else block


def replay(read_block: Callable[[int], bytes]) -> dict[int, Copy]:
    """The file system's blocks that have a newer content in the journal, whose blocks `read_block` gives by index.

    Reads each block of the journal once at most, and holds none of them. ValueError, struct.error where the journal
    is damaged or of a kind that is not known here.
    """
    transactions = list(_Log(read_block).transactions())
    last_revoked = {block: each.sequence for each in transactions for block in each.revoked}
    blocks: dict[int, Copy] = {}
    for transaction in transactions:
        counts = (block for block in transaction.blocks if last_revoked.get(block, -1) < transaction.sequence)
        blocks.update((block, transaction.blocks[block]) for block in counts)
    return blocks


class _Log:
    """Reads transactions from the oldest that is still needed, around the end of the journal if need be."""

    def __init__(self, read_block: Callable[[int], bytes]) -> None:
        self._read = read_block
        head = read_block(0)
        magic, kind, _ = HEADER.unpack_from(head)
        fields = SUPERBLOCK.unpack_from(head, HEADER.size)
        size, self._end, self._first, self._sequence, self._next, _, _, self._features, _, uuid, _ = fields
        if magic != MAGIC or kind != _SUPERBLOCK_V2 or size != len(head) or not 0 < self._first < self._end:
            raise ValueError("a broken journal")
        if self._next and not self._first <= self._next < self._end:
            raise ValueError("a broken journal")
        if self._features & ~_KNOWN:
            raise ValueError(f"a journal with features {self._features:#x}")
        self._seed = google_crc32c.value(uuid)
        self._left = self._end - self._first if self._next else 0

    def transactions(self) -> Iterator[_Transaction]:
        """Those that were committed. What follows is from before, or was not finished."""
        current = _Transaction(sequence=self._sequence)
        while self._left:
            _, block = self._take()
            magic, kind, sequence = HEADER.unpack_from(block)
            if (magic, sequence) != (MAGIC, current.sequence):
                return
            match kind:
                case _Kind.DESCRIPTOR:
                    if not self._read_described(block, current):
                        return
                case _Kind.COMMIT:
                    yield current
                    current = _Transaction(sequence=current.sequence + 1 & 0xFFFFFFFF)
                case _Kind.REVOKE:
                    current.revoked.update(self._revoked(block))
                case _:
                    return

    def _take(self) -> tuple[int, bytes]:
        """The next block, with its index. None is taken twice."""
        index = self._next
        self._left -= 1
        self._next = index + 1 if index + 1 < self._end else self._first
        return index, self._read(index)

    def _read_described(self, descriptor: bytes, transaction: _Transaction) -> bool:
        """The blocks behind a descriptor. False where one is not what was written: the transaction was not finished."""
        for number, flags, checksum in self._tags(descriptor):
            if not self._left:
                return False
            index, data = self._take()
            if checksum is not None and self._checksum(transaction.sequence, data) != checksum:
                return False
            transaction.blocks[number] = Copy(index, bool(flags & _ESCAPED))
            transaction.revoked.discard(number)
        return True

    def _tags(self, descriptor: bytes) -> Iterator[tuple[int, int, int | None]]:
        """Block, flags and checksum of each."""
        at, flags = HEADER.size, 0
        while not flags & _LAST_TAG:
            checksum = None
            if self._features & _INCOMPAT_CSUM_V3:
                low, flags, high, checksum = _TAG_V3.unpack_from(descriptor, at)
                at += _TAG_V3.size
            else:
                low, _, flags = _TAG.unpack_from(descriptor, at)
                at += _TAG.size
                high = 0
                if self._features & _INCOMPAT_64BIT:
                    (high,) = _U32.unpack_from(descriptor, at)
                    at += 4
            if not flags & _SAME_UUID:
                at += _UUID
            yield high << 32 | low, flags, checksum

    def _checksum(self, sequence: int, data: bytes) -> int:
        value: int = google_crc32c.extend(self._seed, _U32.pack(sequence) + data) ^ 0xFFFFFFFF
        return value

    def _revoked(self, block: bytes) -> Iterator[int]:
        (used,) = _U32.unpack_from(block, HEADER.size)
        size = 8 if self._features & _INCOMPAT_64BIT else 4
        for at in range(HEADER.size + 4, min(used, len(block)) - size + 1, size):
            yield int.from_bytes(block[at : at + size], "big")
