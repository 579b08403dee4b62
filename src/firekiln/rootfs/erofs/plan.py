"""Where everything of an image will lie: pure, no byte of content is looked at.

    block 0          1024 zeros, the superblock
    block 1 …        inodes in the order of `walk`, the root first; after each its xattrs and its tail: a directory's
                     last block, a link's target, a chunk table
    then             whole blocks of directories, and targets that found no room behind their inode
    then             content of files in the same order, each from a block's start

The same Tree gives the same plan, in whatever order its directories were filled.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

from firekiln.errors import RootfsError
from firekiln.rootfs.erofs import xattr
from firekiln.rootfs.erofs.chunks import ChunkTable, chunk_table
from firekiln.rootfs.erofs.layout import BLOCK, INODE_EXTENDED, MAX_BLOCKS, SLOT, Layout, inode_type, round_up
from firekiln.rootfs.overlay import OPAQUE, without_overlay
from firekiln.rootfs.tree import Device, Directory, File, Meta, Node, Symlink, Tree, Whiteout

MAX_NAME = 255
MAX_TARGET = 4095
_DIRENT = 12


@dataclass(slots=True, kw_only=True, eq=False)
class Inode:
    """One inode of the image to be. `path` is the first that leads to it.

    `tail` bytes follow the xattrs, `blocks` whole blocks start at block `start`; for files these are all content.
    """

    path: bytes
    node: Node
    number: int
    parent: Inode | None
    nlink: int = 1
    entries: list[tuple[bytes, Inode]] = field(default_factory=list)
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

    @property
    def type(self) -> int:
        return inode_type(self.node)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`inodes` in order; the metadata end at block `data_start`, the image at block `blocks`."""

    inodes: list[Inode]
    data_start: int
    blocks: int


def plan(tree: Tree) -> Plan:
    """RootfsError, with the path, for whatever EROFS or the kernel's VFS cannot hold."""
    inodes = _collect(tree)
    for inode in inodes:
        try:
            _measure(inode)
        except RootfsError as error:
            raise RootfsError(f"/{shown(inode.path)}: {error.message}") from None
    return _place(inodes)


def shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")


def _collect(tree: Tree) -> list[Inode]:
    """All inodes in the order of `walk`, hard links found and counted."""
    root = Inode(path=b"", node=tree, number=1, parent=None, nlink=2)
    inodes = [root]
    known: dict[int, Inode] = {id(tree): root}
    pending = [(root, iter(sorted(tree.children.items())))]
    while pending:
        parent, names = pending[-1]
        for name, node in names:
            path = parent.path + b"/" + name if parent.path else name
            inode = known.get(id(node))
            if inode is None or isinstance(node, Whiteout):
                inode = known[id(node)] = Inode(path=path, node=node, number=len(inodes) + 1, parent=parent)
                inodes.append(inode)
            else:
                inode.nlink += 1
            _check_name(name, path)
            parent.entries.append((name, inode))
            if isinstance(node, Directory):
                if inode.nlink > 1:
                    raise RootfsError(f"/{shown(path)}: a directory cannot have two names")
                inode.nlink = 2
                parent.nlink += 1
                pending.append((inode, iter(sorted(node.children.items()))))
                break
        else:
            pending.pop()
    return inodes


def _check_name(name: bytes, path: bytes) -> None:
    if len(name) > MAX_NAME:
        raise RootfsError(f"/{shown(path)}: a name of {len(name)} bytes; the kernel takes {MAX_NAME}")
    if not name or name in {b".", b".."} or b"/" in name or b"\0" in name:
        raise RootfsError(f"/{shown(path)}: {shown(name)!r} is no name for a file")


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
            if not 0 < len(node.target) <= MAX_TARGET or b"\0" in node.target:
                raise RootfsError(f"a link's target of {len(node.target)} bytes; the kernel takes 1 to {MAX_TARGET}")
            inode.size = len(node.target)
            _lay_flat(inode)
        case File():
            _lay_file(inode, node)
        case Device():
            _check_device(node)
        case _:
            pass


def _xattrs(node: Node) -> bytes:
    assert not isinstance(node, Whiteout)
    pairs = without_overlay(node.meta.xattrs)
    if isinstance(node, Directory) and node.opaque:
        pairs = (*pairs, OPAQUE)
    return xattr.pack(pairs) if pairs else b""


def _check_meta(meta: Meta) -> None:
    if not (0 <= meta.uid < 1 << 32 and 0 <= meta.gid < 1 << 32):
        raise RootfsError(f"owner {meta.uid}:{meta.gid} is out of range")
    if not -(1 << 63) <= meta.mtime_ns // 10**9 < 1 << 63:
        raise RootfsError("its time is out of range")


def _check_device(node: Device) -> None:
    if not (0 <= node.major < 1 << 12 and 0 <= node.minor < 1 << 20):
        raise RootfsError(f"device {node.major}:{node.minor} is out of range")
    if not (node.block or node.major or node.minor):
        raise RootfsError("a character device 0:0 means 'deleted' to overlayfs and cannot be stored")


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


def mode_of(inode: Inode) -> int:
    permissions = 0 if isinstance(inode.node, Whiteout) else inode.node.meta.mode
    return inode.type | stat.S_IMODE(permissions)
