"""Where everything of an image will lie: pure, no byte of content is looked at.

    block 0          1024 zeros, the superblock
    block 1 …        inodes in the order of `walk`, the root first; after each its xattrs and its tail: a directory's
                     last block, a link's target, a chunk table
    then             whole blocks of directories, and targets that found no room behind their inode
    then             content of files in the same order, each from a block's start

The same Tree gives the same plan, in whatever order its directories were filled.
"""

from __future__ import annotations

from dataclasses import dataclass

from firekiln.errors import RootfsError
from firekiln.rootfs import inodes as common
from firekiln.rootfs.erofs import xattr
from firekiln.rootfs.erofs.chunks import ChunkTable, chunk_table
from firekiln.rootfs.erofs.layout import BLOCK, INODE_EXTENDED, MAX_BLOCKS, SLOT, Layout, round_up
from firekiln.rootfs.inodes import check_device, check_owner, check_target, collect, shown
from firekiln.rootfs.overlay import OPAQUE, without_overlay
from firekiln.rootfs.tree import Device, Directory, File, Meta, Node, Symlink, Tree, Whiteout

_DIRENT = 12


@dataclass(slots=True, kw_only=True, eq=False)
class Inode(common.Inode):
    """One inode of the image to be.

    `tail` bytes follow the xattrs, `blocks` whole blocks start at block `start`; for files these are all content.
    """

    xattrs: bytes = b""
    layout: Layout = Layout.FLAT_PLAIN
    size: int = 0
    tail: int = 0
    blocks: int = 0
    offset: int = 0
    start: int = 0
    chunks: ChunkTable | None = None

    @property
    def nid(self) -> int:
        return self.offset // SLOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`inodes` in order; the metadata end at block `data_start`, the image at block `blocks`."""

    inodes: list[Inode]
    data_start: int
    blocks: int


def plan(tree: Tree) -> Plan:
    """RootfsError, with the path, for whatever EROFS or the kernel's VFS cannot hold."""
    inodes = collect(tree, Inode)
    for inode in inodes:
        try:
            _measure(inode)
        except RootfsError as error:
            raise RootfsError(f"/{shown(inode.path)}: {error.message}") from None
    return _place(inodes)


def _measure(inode: Inode) -> None:
    """Sizes and layout of one inode."""
    node = inode.node
    if not isinstance(node, Whiteout):
        inode.xattrs = _xattrs(node)
        _check_meta(node.meta)
    match node:
        case Directory():
            inode.size = _directory_size([name for name, _ in inode.entries])
            _lay_flat(inode)
        case Symlink():
            check_target(node.target)
            inode.size = len(node.target)
            _lay_flat(inode)
        case File():
            _lay_file(inode, node)
        case Device():
            check_device(node)
        case _:
            pass


def _xattrs(node: Node) -> bytes:
    assert not isinstance(node, Whiteout)
    pairs = without_overlay(node.meta.xattrs)
    if isinstance(node, Directory) and node.opaque:
        pairs = (*pairs, OPAQUE)
    return xattr.pack(pairs) if pairs else b""


def _check_meta(meta: Meta) -> None:
    check_owner(meta)
    if not -(1 << 63) <= meta.mtime_ns // 10**9 < 1 << 63:
        raise RootfsError("its time is out of range")


def _lay_flat(inode: Inode) -> None:
    """Directories and links: what is left of whole blocks goes behind the inode where a block has room for all of it.

    Linux 6.1 wants a link's inode, xattrs and target in one block (`erofs_fill_symlink`), and the tail of anything
    in one (`erofs_map_blocks_flatmode`).
    """
    rest = inode.size % BLOCK
    if rest and INODE_EXTENDED.size + len(inode.xattrs) + rest <= BLOCK:
        inode.layout, inode.tail, inode.blocks = Layout.FLAT_INLINE, rest, inode.size // BLOCK
    else:
        inode.blocks = round_up(inode.size, BLOCK) // BLOCK


def _lay_file(inode: Inode, node: File) -> None:
    if not 0 <= node.size < 1 << 63:
        raise RootfsError(f"a size of {node.size} bytes")
    inode.size = node.size
    inode.blocks = round_up(node.size, BLOCK) // BLOCK
    if sum(extent.length for extent in node.extents) < node.size and (table := chunk_table(node)):
        inode.layout, inode.chunks = Layout.CHUNK_BASED, table
        inode.tail, inode.blocks = table.size, table.blocks


def _directory_size(names: list[bytes]) -> int:
    """Bytes of a directory's data: whole blocks but for the last, which is as long as its entries."""
    size, used = 0, 0
    for name in (*names, b".", b".."):
        used += _DIRENT + len(name)
    if used <= BLOCK:
        return used
    used = 0
    for name in sorted((*names, b".", b"..")):
        need = _DIRENT + len(name)
        if used + need > BLOCK:
            size, used = size + BLOCK, 0
        used += need
    return size + used


def _place(inodes: list[Inode]) -> Plan:
    position = BLOCK
    for inode in inodes:
        length = INODE_EXTENDED.size + len(inode.xattrs) + inode.tail
        room = BLOCK - position % BLOCK
        together = length if inode.layout == Layout.FLAT_INLINE else INODE_EXTENDED.size
        if together > room:
            position += room
        inode.offset = position
        if inode.layout == Layout.CHUNK_BASED:
            length += -(INODE_EXTENDED.size + len(inode.xattrs)) % 4
        position = round_up(position + length, SLOT)
    block = round_up(position, BLOCK) // BLOCK
    for inode in inodes:
        if not isinstance(inode.node, File):
            inode.start, block = block, block + inode.blocks
    data_start = block
    for inode in inodes:
        if isinstance(inode.node, File):
            inode.start, block = block, block + inode.blocks
    if block >= MAX_BLOCKS:
        raise RootfsError(f"an image of {block * BLOCK} bytes; EROFS holds {MAX_BLOCKS * BLOCK}")
    return Plan(inodes=inodes, data_start=data_start, blocks=block)
