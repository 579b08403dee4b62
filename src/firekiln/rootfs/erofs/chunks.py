"""Sparse files: a table of chunks, of which those without data take no room.

The chunk's size is a power of two, one for a file: small chunks waste no zeros, large ones keep the table short.
"""

from __future__ import annotations

from firekiln.errors import RootfsError
from firekiln.rootfs.erofs.layout import BLOCK, BLOCK_BITS, CHUNK_BITS_MASK, round_up
from firekiln.rootfs.tree import File
from firekiln.values import dataclass

_ENTRY = 4
_MAX_ENTRIES = 1 << 24
_MAX_ZEROS = 1 << 30
"""Bytes of zeros that an image may store for one file because its data are scattered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTable:
    """`count` chunks of `1 << bits` bytes; those that hold data are the ranges `runs` (first, past the last).

    `blocks` are all their blocks, one after the other; the file's last chunk ends with the file's last block.
    """

    bits: int
    count: int
    runs: tuple[tuple[int, int], ...]
    blocks: int

    @property
    def size(self) -> int:
        """Bytes of the table itself."""
        return _ENTRY * self.count


def chunk_table(file: File) -> ChunkTable | None:
    """The table that takes the least room in all; None where writing the zeros takes no more.

    RootfsError where zeros and table alike are beyond reason: data scattered over exabytes.
    """
    best: ChunkTable | None = None
    for bits in range(BLOCK_BITS, BLOCK_BITS + CHUNK_BITS_MASK + 1):
        if file.size > _MAX_ENTRIES << bits:
            continue
        table = _table(file, bits)
        if best is None or table.size + table.blocks * BLOCK < best.size + best.blocks * BLOCK:
            best = table
        if table.count == 1:
            break
    held = sum(extent.length for extent in file.extents)
    if best is None or best.blocks * BLOCK > held + _MAX_ZEROS:
        raise RootfsError(f"a sparse file of {file.size} bytes with data so scattered is more than EROFS can hold")
    return best if best.size + best.blocks * BLOCK < round_up(file.size, BLOCK) else None


def _table(file: File, bits: int) -> ChunkTable:
    runs: list[tuple[int, int]] = []
    for start, length, _, _ in file.extents:
        if not length:
            continue
        first, last = start >> bits, ((start + length - 1) >> bits) + 1
        if runs and first <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(last, runs[-1][1]))
        else:
            runs.append((first, last))
    blocks = sum(min(round_up(file.size, BLOCK), last << bits) - (first << bits) for first, last in runs) // BLOCK
    return ChunkTable(bits=bits, count=-(-file.size // (1 << bits)), runs=tuple(runs), blocks=blocks)
