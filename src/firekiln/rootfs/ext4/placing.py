"""Gives every block of an image its place: files one behind another, then directories and other metadata.

The content of files comes first, since it takes longest to write, and need not wait for the directories' hashes.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from itertools import chain

from firekiln.errors import RootfsError
from firekiln.rootfs.ext4 import directory, extents, xattr
from firekiln.rootfs.ext4.content import Copies
from firekiln.rootfs.ext4.extents import Run
from firekiln.rootfs.ext4.geometry import Space
from firekiln.rootfs.ext4.layout import BLOCK, EXTENT_BLOCKS, ROOT_INODE, Checksum, blocks_of
from firekiln.rootfs.ext4.plan import LOST_FOUND_BLOCKS, Inode, Plan, is_spare_lost_found
from firekiln.rootfs.inodes import FILE_TYPES, shown
from firekiln.rootfs.tree import File

_NO_RUNS = extents.pack([], allocate=lambda: 0, seed=0)[0]


def needed(planned: Plan) -> int:
    """Blocks at most that the functions below take, together."""
    every = chain(planned.inodes, planned.values.values())
    return sum(inode.blocks for inode in every) + len(_xattr_blocks(planned))


def place_files(planned: Plan, space: Space) -> Copies:
    """Places the files' content, from the front of `space` on, and says what is to be copied there."""
    copies = Copies()
    for inode in chain(planned.inodes, planned.values.values()):
        node = inode.node
        if isinstance(node, File):
            spans = inode.spans
            if spans:
                runs = [run for first, last in spans for run in space.take(last - first, first)]
            else:
                runs = space.take(inode.blocks)
            copies.add(inode.path, node, runs)
            if not runs:
                inode.block = _NO_RUNS
            elif len(runs) == 1 and runs[0].length <= EXTENT_BLOCKS:  # nearly all files
                inode.block, inode.blocks = extents.pack_one(runs[0]), runs[0].length
            else:
                inode.runs = runs
    return copies


def place_metadata(planned: Plan, space: Space, checksum: Checksum, hash_seed: bytes) -> list[tuple[int, bytes]]:
    """Makes directories and blocks of xattrs, places them, completes the inodes. Blocks to be written, each with its
    place.
    """
    blocks: list[tuple[int, bytes]] = []
    xattr_blocks = _xattr_blocks(planned)
    for packed, users in xattr_blocks:
        at = space.take_one()
        blocks.append((at, xattr.finish_block(packed, at, len(users), checksum, planned.refer_to)))
        for inode in users:
            inode.xattrs_at = at
    for inode in planned.inodes:
        if inode.type == stat.S_IFDIR:
            _fill(inode, checksum, hash_seed)
        if inode.data:
            inode.runs = space.take(blocks_of(inode.size))
            blocks.extend(_pieces(inode.data, inode.runs))
    for inode in chain(planned.inodes, planned.values.values()):
        if inode.runs:
            _complete(inode, space, checksum, blocks)
    for packed, users in xattr_blocks:
        for inode in users:
            inode.blocks += 1 + sum(blocks_of(len(value)) for _, value in packed.values)
    return blocks


def _fill(inode: Inode, checksum: Checksum, hash_seed: bytes) -> None:
    """Sets a directory's data, which depend on the file system's UUID and hash seed."""
    parent = inode.parent.number if inode.parent else ROOT_INODE
    seed = checksum.inode_seed(inode.number)
    if is_spare_lost_found(inode):
        inode.data = directory.with_spare_blocks(inode.number, parent, LOST_FOUND_BLOCKS, inode_seed=seed)
    else:
        entries = [(name, entry.number, FILE_TYPES[entry.type]) for name, entry in inode.entries]
        try:
            built = directory.build(entries, inode.number, parent, inode_seed=seed, hash_seed=hash_seed)
        except RootfsError as error:
            raise RootfsError(f"/{shown(inode.path)}: {error.message}") from None
        inode.data, inode.indexed = built.data, built.indexed
    inode.size = len(inode.data)


def _complete(inode: Inode, space: Space, checksum: Checksum, blocks: list[tuple[int, bytes]]) -> None:
    """i_block, with the tree behind it, and the number of blocks."""
    inode.block, tree = extents.pack(inode.runs, space.take_one, checksum.inode_seed(inode.number))
    blocks.extend(tree)
    inode.blocks = sum(run.length for run in inode.runs) + len(tree)


def _xattr_blocks(planned: Plan) -> list[tuple[xattr.Packed, list[Inode]]]:
    """Blocks of xattrs, each with the inodes that share it."""
    users: dict[tuple[object, ...], list[Inode]] = {}
    for inode in planned.inodes:
        if inode.xattrs.block:
            users.setdefault((inode.xattrs.block, *inode.xattrs.values), []).append(inode)
    most = xattr.MAX_SHARED
    return [(them[0].xattrs, them[at : at + most]) for them in users.values() for at in range(0, len(them), most)]


def _pieces(data: bytes, runs: Sequence[Run]) -> list[tuple[int, bytes]]:
    if len(runs) == 1:
        return [(runs[0].physical, data)]
    return [(run.physical, data[run.logical * BLOCK : (run.logical + run.length) * BLOCK]) for run in runs]
