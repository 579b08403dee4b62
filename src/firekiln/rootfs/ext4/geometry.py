"""Where the parts of an image lie, from its size and its number of inodes: pure arithmetic.

    group 0          superblock, group descriptors, room for more of them
    then             block bitmaps, inode bitmaps and inode tables of all groups, side by side
    then             the resize inode's block, the journal
    then             what the image holds, from front to back without a gap
    groups 1, 3ⁿ, 5ⁿ, 7ⁿ begin with copies of superblock and descriptors; everything else steps over them

Bitmaps and tables of all groups lie together (`mke2fs -E packed_meta_blocks`, which flex_bg allows), so that content
is one long run and groups without content need no bitmap: they are BLOCK_UNINIT and INODE_UNINIT.
"""

from __future__ import annotations

from dataclasses import field

from firekiln.errors import RootfsError
from firekiln.rootfs.ext4.extents import Run
from firekiln.rootfs.ext4.layout import (
    BLOCK,
    DESCRIPTORS_PER_BLOCK,
    FIRST_INODE,
    GROUP,
    INODES_PER_BLOCK,
    MAX_BLOCKS,
)
from firekiln.values import dataclass

_BLOCKS_PER_INODE = 4  # mke2fs: an inode for 16 KiB
_MAX_INODES_PER_GROUP = GROUP
_GROWTH = 1024  # mke2fs: room for the descriptors of a file system a thousand times as large …
_LEAST_GROWTH = (256 << 30) // BLOCK  # resize2fs 1.47 fails beyond the room, so tiny images have some, too
_MAX_RESERVED = BLOCK // 4  # … as far as the resize inode's block can list them
_LEAST_LAST_GROUP = 50  # mke2fs: a shorter one is not worth its own metadata
_JOURNALS = ((1 << 15, 1 << 10), (1 << 18, 1 << 12), (1 << 19, 1 << 13), (1 << 22, 1 << 14), (1 << 23, 1 << 15))
"""Blocks of the journal for file systems of less than so many blocks (e2fsprogs, `ext2fs_default_journal_size`)."""
_LARGEST_JOURNAL = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Sizes in blocks. `copies` are the groups that begin with a superblock, `reserved` blocks follow `descriptors`."""

    blocks: int
    groups: int
    inodes_per_group: int
    descriptors: int
    reserved: int
    copies: tuple[int, ...]
    journal: int

    @property
    def table(self) -> int:
        """Blocks of a group's inode table."""
        return self.inodes_per_group // INODES_PER_BLOCK

    @property
    def inodes(self) -> int:
        return self.groups * self.inodes_per_group

    @property
    def head(self) -> int:
        """Blocks of superblock and descriptors at the front of the groups that have them."""
        return 1 + self.descriptors + self.reserved


class Space:
    """Gives out the blocks of an image from front to back. `gaps` are blocks that had to be left free between."""

    def __init__(self, geometry: Geometry) -> None:
        self.next = geometry.head
        self.gaps: list[tuple[int, int]] = []
        self._head = geometry.head
        self._ends = [*(group * GROUP for group in geometry.copies[1:]), geometry.blocks]
        self._last = len(self._ends) - 1
        self._index = 0

    @property
    def free(self) -> int:
        """Blocks that are still to be given out."""
        return self._ends[-1] - self.next - self._head * (self._last - self._index)

    def take(self, count: int, logical: int = 0) -> list[Run]:
        """`count` blocks in as few runs as there can be, which a file's blocks from `logical` on shall be."""
        if 0 < count <= self._ends[self._index] - self.next:  # nearly always
            self.next += count
            return [Run(logical, self.next - count, count)]
        runs = []
        while count:
            step = min(count, self._ends[self._index] - self.next)
            if step:
                runs.append(Run(logical, self.next, step))
                self.next += step
            else:
                self._step_over()
            logical += step
            count -= step
        return runs

    def take_one(self) -> int:
        return self.take(1)[0].physical

    def take_tables(self, count: int, size: int) -> list[tuple[int, int]]:
        """`count` pieces of `size` blocks, none of them cut: starts, and how many lie there side by side."""
        pieces = []
        while count:
            room = self._ends[self._index] - self.next
            step = min(count, room // size)
            if step:
                pieces.append((self.next, step))
                self.next += step * size
                count -= step
            else:
                if room:
                    self.gaps.append((self.next, room))
                    self.next += room
                self._step_over()
        return pieces

    def _step_over(self) -> None:
        if self._index == self._last:
            raise _FullError
        self._index += 1
        self.next += self._head


class _FullError(Exception):
    """The metadata alone do not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A geometry with its metadata in place; `space` gives out the rest, and never more than `space.free`."""

    geometry: Geometry
    block_bitmaps: list[Run]
    inode_bitmaps: list[Run]
    tables: list[tuple[int, int]]
    resize: int | None
    journal: list[Run]
    space: Space = field(compare=False)


def geometry_of(blocks: int, inodes: int, *, journal: bool, growth: bool) -> Geometry:
    """For a file system of `blocks` with room for `inodes` at least (all of them, the reserved ones too)."""
    groups = -(-blocks // GROUP)
    per_group = -(-max(inodes, blocks // _BLOCKS_PER_INODE, FIRST_INODE + 1) // groups)
    per_group = min(-(-per_group // INODES_PER_BLOCK) * INODES_PER_BLOCK, _MAX_INODES_PER_GROUP)
    descriptors = -(-groups // DESCRIPTORS_PER_BLOCK)
    reserved = 0
    if growth:
        grown = -(-min(max(blocks * _GROWTH, _LEAST_GROWTH), MAX_BLOCKS - 1) // GROUP)
        reserved = min(-(-grown // DESCRIPTORS_PER_BLOCK) - descriptors, _MAX_RESERVED)
    return Geometry(
        blocks=blocks,
        groups=groups,
        inodes_per_group=per_group,
        descriptors=descriptors,
        reserved=max(reserved, 0),
        copies=groups_with_copies(groups),
        journal=_journal_blocks(blocks) if journal else 0,
    )


def lay_out(geometry: Geometry) -> Layout | None:
    """None where the metadata have no room."""
    space = Space(geometry)
    try:
        return Layout(
            geometry=geometry,
            block_bitmaps=space.take(geometry.groups),
            inode_bitmaps=space.take(geometry.groups),
            tables=space.take_tables(geometry.groups, geometry.table),
            resize=space.take_one() if geometry.reserved else None,
            journal=space.take(geometry.journal),
            space=space,
        )
    except _FullError:
        return None


def fit(
    need: int, inodes: int, *, total: int | None, extra: int = 0, journal: bool = True, growth: bool = True
) -> Layout:
    """A layout with `need` free blocks: of `total` blocks, or the smallest with `extra` free blocks besides.

    RootfsError where `total` does not suffice, or no ext4 of 4 KiB blocks does.
    """
    smallest = _smallest(need if total is not None else need + extra, inodes, journal=journal, growth=growth)
    if total is None:
        return smallest
    if total > MAX_BLOCKS:
        raise RootfsError(f"a size of {total * BLOCK} bytes; {MAX_BLOCKS * BLOCK} is the most that is made here")
    layout = _try(_without_stub(total, growth=growth), need, inodes, journal=journal, growth=growth)
    if layout is None:
        least = smallest.geometry.blocks * BLOCK
        raise RootfsError(f"a size of {total * BLOCK} bytes is too small, {least} are needed")
    return layout


def _smallest(need: int, inodes: int, *, journal: bool, growth: bool) -> Layout:
    blocks = max(need, GROUP * (-(-inodes // _MAX_INODES_PER_GROUP) - 1) + 1)
    while blocks <= MAX_BLOCKS:
        geometry = geometry_of(blocks, inodes, journal=journal, growth=growth)
        layout = lay_out(geometry)
        free = layout.space.free if layout else 0
        stub = _stub(geometry)
        if layout and free >= need and not stub:
            return layout
        blocks += max(need - free, stub, 1)
    raise RootfsError(f"an image of more than {MAX_BLOCKS * BLOCK} bytes")


def _try(blocks: int, need: int, inodes: int, *, journal: bool, growth: bool) -> Layout | None:
    if blocks < 1:
        return None
    geometry = geometry_of(blocks, inodes, journal=journal, growth=growth)
    layout = lay_out(geometry)
    if layout is None or layout.space.free < need or geometry.inodes < inodes:
        return None
    return layout


def _stub(geometry: Geometry) -> int:
    """How many blocks the last group lacks to be worth its metadata."""
    last = geometry.blocks - (geometry.groups - 1) * GROUP
    least = _LEAST_LAST_GROUP + (geometry.head if geometry.groups - 1 in geometry.copies else 0)
    return max(least - last, 0) if geometry.groups > 1 else 0


def _without_stub(blocks: int, *, growth: bool) -> int:
    """`blocks` less a last group that is too short, as mke2fs does."""
    if blocks and _stub(geometry_of(blocks, 0, journal=False, growth=growth)):
        return blocks // GROUP * GROUP
    return blocks


def groups_with_copies(groups: int) -> tuple[int, ...]:
    """Those that begin with a superblock and descriptors, of so many groups: 0, 1, and the powers of 3, 5 and 7."""
    found = {0}
    for base in (3, 5, 7):
        power = 1
        while power < groups:
            found.add(power)
            power *= base
    return tuple(sorted(found))


def _journal_blocks(blocks: int) -> int:
    return next((size for limit, size in _JOURNALS if blocks < limit), _LARGEST_JOURNAL)
