"""Extent trees: up to four runs of blocks stand in the inode itself, more in blocks of their own, in as many levels as
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from firekiln.rootfs.ext4.layout import (
    EXTENT,
    EXTENT_BLOCKS,
    EXTENT_HEADER,
    EXTENT_INDEX,
    EXTENT_MAGIC,
    EXTENTS_IN_BLOCK,
    EXTENTS_IN_INODE,
    continued,
)

_MAX_DEPTH = 5  # EXT4_MAX_EXTENT_DEPTH
_ONE_EXTENT = EXTENT_HEADER.pack(EXTENT_MAGIC, 1, EXTENTS_IN_INODE, 0, 0)


class Run(NamedTuple):
    """`length` blocks of a file from its block `logical` on lie from the image's block `physical` on."""

    logical: int
    physical: int
    length: int


def tree_blocks(extents: int) -> int:
    """How many blocks `pack` asks for at most for a file of so many extents (of EXTENT_BLOCKS at most)."""
    total = 0
    while extents > EXTENTS_IN_INODE:
        extents = -(-extents // EXTENTS_IN_BLOCK)
        total += extents
    return total


def pack_one(run: Run) -> bytes:
    """i_block of a file that is one run, of EXTENT_BLOCKS at most."""
    return _ONE_EXTENT + EXTENT.pack(run.logical, run.length, run.physical >> 32, run.physical & 0xFFFFFFFF)


def pack(runs: Sequence[Run], allocate: Callable[[], int], seed: int) -> tuple[bytes, list[tuple[int, bytes]]]:
    """i_block of a file that consists of `runs`, and the tree's other blocks with their places.

    `allocate` gives a free block each time; `seed` is the inode's checksum state.
    """
    entries = [(run.logical, EXTENT.pack(*_halves(run))) for run in _limited(runs)]
    blocks: list[tuple[int, bytes]] = []
    depth = 0
    while len(entries) > EXTENTS_IN_INODE:
        above: list[tuple[int, bytes]] = []
        for first in range(0, len(entries), EXTENTS_IN_BLOCK):
            part = entries[first : first + EXTENTS_IN_BLOCK]
            node = _node(part, EXTENTS_IN_BLOCK, depth)
            node = node.ljust(EXTENT_HEADER.size + EXTENTS_IN_BLOCK * EXTENT.size, b"\0")
            place = allocate()
            blocks.append((place, node + continued(seed, node).to_bytes(4, "little")))
            above.append((part[0][0], EXTENT_INDEX.pack(part[0][0], place & 0xFFFFFFFF, place >> 32, 0)))
        entries = above
        depth += 1
    return _node(entries, EXTENTS_IN_INODE, depth), blocks


def _node(entries: list[tuple[int, bytes]], room: int, depth: int) -> bytes:
    head = EXTENT_HEADER.pack(EXTENT_MAGIC, len(entries), room, depth, 0)
    return head + b"".join(entry for _, entry in entries)


def _limited(runs: Sequence[Run]) -> Iterator[Run]:
    for logical, physical, count in runs:
        for at in range(0, count, EXTENT_BLOCKS):
            yield Run(logical + at, physical + at, min(EXTENT_BLOCKS, count - at))


def _halves(run: Run) -> tuple[int, int, int, int]:
    return run.logical, run.length, run.physical >> 32, run.physical & 0xFFFFFFFF


def unpack(node: bytes, read_block: Callable[[int], bytes], depth: int | None = None) -> Iterator[Run]:
    """The runs of a file from its i_block, in order, but for those that are allocated and unwritten: they are holes.

    ValueError, struct.error for a damaged tree; that no block of it is met twice is for `read_block` to see to.
    """
    magic, count, _, level, _ = EXTENT_HEADER.unpack_from(node)
    if magic != EXTENT_MAGIC or level > _MAX_DEPTH or depth not in {None, level}:
        raise ValueError("a broken extent tree")
    for index in range(count):
        at = EXTENT_HEADER.size + index * EXTENT.size
        if level:
            _, low, high, _ = EXTENT_INDEX.unpack_from(node, at)
            yield from unpack(read_block(high << 32 | low), read_block, level - 1)
            continue
        logical, length, high, low = EXTENT.unpack_from(node, at)
        if not length:
            raise ValueError("a broken extent")
        if length <= EXTENT_BLOCKS:
            yield Run(logical, high << 32 | low, length)
