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


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What an inode says of its blocks: i_block, how many there are, and where its xattrs have one."""

    block: bytes
    blocks: int
    xattrs: int


@dataclass(slots=True, kw_only=True)
class Placed:
    """`places` are those of the plan's inodes, in the same order; `blocks` are metadata, each with its first block."""

    places: list[Place] = field(default_factory=list)
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
    """Places everything. `space` must have the blocks that are `needed`."""
    placed = Placed()
    xattrs: dict[int, int] = {}
    for block, users in _xattr_blocks(planned):
        at = space.take_one()
        placed.blocks.append((at, xattr.finish_block(block, at, len(users), checksum)))
        xattrs.update((inode.number, at) for inode in users)
    runs = {inode.number: _take(space, inode) for inode in planned.inodes if inode.data}
    for inode in planned.inodes:
        node = inode.node
        found = runs.get(inode.number)
        if isinstance(node, File):
            found = _take(space, inode)
            placed.copies.add(inode.path, node, found)
        elif found:
            placed.blocks.extend(_pieces(inode.data, found))
        block = inode.block
        tree: list[tuple[int, bytes]] = []
        if found is not None:
            block, tree = extents.pack(found, space.take_one, checksum.inode_seed(inode.number))
            placed.blocks.extend(tree)
        at = xattrs.get(inode.number, 0)
        blocks = sum(run.length for run in found or ()) + len(tree) + bool(at)
        placed.places.append(Place(block=block, blocks=blocks, xattrs=at))
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
    return [run for first, last in inode.spans for run in space.take(last - first, first)]


def _pieces(data: bytes, runs: list[Run]) -> list[tuple[int, bytes]]:
    if len(runs) == 1:
        return [(runs[0].physical, data)]
    return [(run.physical, data[run.logical * BLOCK : (run.logical + run.length) * BLOCK]) for run in runs]
