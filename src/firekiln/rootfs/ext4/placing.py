"""Gives every block of an image its place: directories and other metadata first, then files one behind another."""

from __future__ import annotations

from dataclasses import dataclass, field

from firekiln.errors import RootfsError
from firekiln.rootfs.ext4 import directory, extents, xattr
from firekiln.rootfs.ext4.content import Copies
from firekiln.rootfs.ext4.extents import Run
from firekiln.rootfs.ext4.geometry import Space
from firekiln.rootfs.ext4.layout import BLOCK, ROOT_INODE, Checksum
from firekiln.rootfs.ext4.plan import LOST_FOUND_BLOCKS, Inode, Plan, is_spare_lost_found, set_data
from firekiln.rootfs.inodes import FILE_TYPES, shown
from firekiln.rootfs.tree import Directory, File


@dataclass(slots=True, kw_only=True)
class Placed:
    """What is to be written besides inodes: `blocks` are metadata, each with its first block."""

    blocks: list[tuple[int, bytes]] = field(default_factory=list)
    copies: Copies = field(default_factory=Copies)


def fill_directories(planned: Plan, checksum: Checksum, hash_seed: bytes) -> None:
    """Sets the directories' data, which depend on the file system's UUID and hash seed."""
    for inode in planned.inodes:
        if not isinstance(inode.node, Directory):
            continue
        parent = inode.parent.number if inode.parent else ROOT_INODE
        seed = checksum.inode_seed(inode.number)
        if is_spare_lost_found(inode):
            set_data(inode, directory.with_spare_blocks(inode.number, parent, LOST_FOUND_BLOCKS, inode_seed=seed))
            continue
        entries = [(name, entry.number, FILE_TYPES[entry.type]) for name, entry in inode.entries]
        try:
            built = directory.build(entries, inode.number, parent, inode_seed=seed, hash_seed=hash_seed)
        except RootfsError as error:
            raise RootfsError(f"/{shown(inode.path)}: {error.message}") from None
        set_data(inode, built.data)
        inode.indexed = built.indexed


def needed(planned: Plan) -> int:
    """Blocks at most that `place` takes."""
    return sum(inode.blocks for inode in planned.inodes) + len(_xattr_blocks(planned))


def place(planned: Plan, space: Space, checksum: Checksum) -> Placed:
    """Places everything, and says so in the inodes. `space` must have the blocks that are `needed`."""
    placed = Placed()
    for block, users in _xattr_blocks(planned):
        at = space.take_one()
        placed.blocks.append((at, xattr.finish_block(block, at, len(users), checksum)))
        for inode in users:
            inode.xattrs_at = at
    runs = {inode.number: _take(space, inode) for inode in planned.inodes if inode.data}
    for inode in planned.inodes:
        if isinstance(inode.node, File):
            found = _take(space, inode)
            placed.copies.add(inode.path, inode.node, found)
        elif inode.data:
            found = runs[inode.number]
            placed.blocks.extend(_pieces(inode.data, found))
        else:
            inode.blocks = bool(inode.xattrs_at)
            continue
        inode.block, tree = extents.pack(found, space.take_one, checksum.inode_seed(inode.number))
        placed.blocks.extend(tree)
        inode.blocks = sum(run.length for run in found) + len(tree) + bool(inode.xattrs_at)
    return placed


def _xattr_blocks(planned: Plan) -> list[tuple[bytes, list[Inode]]]:
    """Blocks of xattrs, each with the inodes that share it."""
    users: dict[bytes, list[Inode]] = {}
    for inode in planned.inodes:
        if inode.xattrs.block:
            users.setdefault(inode.xattrs.block, []).append(inode)
    most = xattr.MAX_SHARED
    return [(block, them[at : at + most]) for block, them in users.items() for at in range(0, len(them), most)]


def _take(space: Space, inode: Inode) -> list[Run]:
    if len(inode.spans) == 1:
        first, last = inode.spans[0]
        return space.take(last - first, first)
    return [run for first, last in inode.spans for run in space.take(last - first, first)]


def _pieces(data: bytes, runs: list[Run]) -> list[tuple[int, bytes]]:
    if len(runs) == 1:
        return [(runs[0].physical, data)]
    return [(run.physical, data[run.logical * BLOCK : (run.logical + run.length) * BLOCK]) for run in runs]
