"""What an image will hold, inode by inode: sizes, xattrs, how many blocks; no block has its place yet.

Pure, and the same for the same Tree, in whatever order its directories were filled.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from firekiln.errors import RootfsError
from firekiln.rootfs import inodes as common
from firekiln.rootfs.ext4 import extents, xattr
from firekiln.rootfs.ext4.layout import (
    BLOCK,
    EXTENT_BLOCKS,
    FIRST_INODE,
    INLINE_DATA,
    MAX_FILE,
    MAX_LINKS,
    ROOT_INODE,
    blocks_of,
)
from firekiln.rootfs.inodes import check_device, check_owner, check_target, collect, encode_device, shown
from firekiln.rootfs.overlay import OPAQUE, without_overlay
from firekiln.rootfs.tree import Device, Directory, File, Meta, Symlink, Tree, Whiteout

LOST_FOUND = b"lost+found"
LOST_FOUND_BLOCKS = 4
_LEAST_BETWEEN_COPIES = 29_000
"""Blocks at least that lie between two copies of the superblock (`geometry.py`), where a file may be cut."""
_NO_META = Meta(mode=0)


@dataclass(slots=True, kw_only=True, eq=False)
class Inode(common.Inode):
    """One inode of the image to be.

    `block` is i_block of what has no blocks of its own. `data` is what a directory or a long link's target has in
    blocks. `spans` are the blocks that hold data (first, past the last). `tree_blocks` is how many the extent tree
    takes at most.
    """

    size: int = 0
    block: bytes = b""
    data: bytes = b""
    indexed: bool = False
    spans: list[tuple[int, int]] = field(default_factory=list)
    tree_blocks: int = 0
    xattrs: xattr.Packed = xattr.Packed()  # noqa: RUF009 - frozen

    @property
    def meta(self) -> Meta:
        return _NO_META if isinstance(self.node, Whiteout) else self.node.meta

    @property
    def blocks(self) -> int:
        """Blocks at most, for content and extent tree."""
        return sum(last - first for first, last in self.spans) + self.tree_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`inodes` in order, numbered as ext4 does; `digest` is one of all that is known of them without their content."""

    inodes: list[Inode]
    digest: bytes

    @property
    def last_inode(self) -> int:
        return max(self.inodes[-1].number, FIRST_INODE)


def plan(tree: Tree, *, epoch: int, whiteouts: bool) -> Plan:
    """RootfsError, with the path, for whatever ext4 cannot hold."""
    inodes = collect(_with_lost_found(tree, epoch), Inode)
    packed: dict[xattr.Xattrs, xattr.Packed] = {(): xattr.Packed()}
    for inode in inodes:
        inode.number = ROOT_INODE if inode.parent is None else FIRST_INODE - 2 + inode.number
        try:
            if not whiteouts:
                _check_merged(inode)
            _measure(inode, packed)
        except RootfsError as error:
            raise RootfsError(f"/{shown(inode.path)}: {error.message}", hint=error.hint) from None
    return Plan(inodes=inodes, digest=_digest(inodes))


def _with_lost_found(tree: Tree, epoch: int) -> Tree:
    if LOST_FOUND in tree.children:
        return tree
    lost = Directory(meta=Meta(mode=0o700, mtime_ns=epoch * 10**9))
    return Directory(meta=tree.meta, children={**tree.children, LOST_FOUND: lost}, opaque=tree.opaque)


def is_spare_lost_found(inode: Inode) -> bool:
    """Whether this is the directory that gets LOST_FOUND_BLOCKS in advance."""
    return inode.path == LOST_FOUND and isinstance(inode.node, Directory) and not inode.entries


def _check_merged(inode: Inode) -> None:
    hint = "merge the layers first"
    if isinstance(inode.node, Whiteout):
        raise RootfsError("a whiteout belongs to a layer, not to a whole file system", hint=hint)
    if isinstance(inode.node, Directory) and inode.node.opaque:
        raise RootfsError("an opaque directory belongs to a layer, not to a whole file system", hint=hint)


def _measure(inode: Inode, packed: dict[xattr.Xattrs, xattr.Packed]) -> None:
    node = inode.node
    check_owner(inode.meta)
    pairs = without_overlay(inode.meta.xattrs)
    if isinstance(node, Directory) and node.opaque:
        pairs = (*pairs, OPAQUE)
    known = packed.get(pairs)
    if known is None:
        known = packed[pairs] = xattr.pack(pairs)
    inode.xattrs = known
    match node:
        case Directory():
            if inode.nlink > MAX_LINKS:
                inode.nlink = 1  # dir_nlink: more sub-directories than can be counted
            return
        case File():
            _measure_file(inode, node)
        case Symlink():
            check_target(node.target)
            inode.size = len(node.target)
            if inode.size < INLINE_DATA:
                inode.block = node.target
            else:
                set_data(inode, node.target)
        case Device():
            check_device(node)
            inode.block = _device_numbers(node)
        case _:
            pass
    if inode.nlink > MAX_LINKS:
        raise RootfsError(f"{inode.nlink} names; ext4 counts {MAX_LINKS}")


def set_data(inode: Inode, data: bytes) -> None:
    inode.data = data
    inode.size = len(data)
    inode.spans = [(0, blocks_of(len(data)))]
    inode.tree_blocks = _tree_blocks(inode.spans)


def _measure_file(inode: Inode, node: File) -> None:
    if not 0 <= node.size <= MAX_FILE:
        raise RootfsError(f"a size of {node.size} bytes; ext4 holds {MAX_FILE}")
    inode.size = node.size
    spans: list[tuple[int, int]] = []
    for start, length, _, _ in node.extents:
        if not length:
            continue
        first, last = start // BLOCK, blocks_of(start + length)
        if spans and first <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(last, spans[-1][1]))
        else:
            spans.append((first, last))
    inode.spans = spans
    inode.tree_blocks = _tree_blocks(spans)


def _tree_blocks(spans: list[tuple[int, int]]) -> int:
    pieces = sum(-(-(last - first) // EXTENT_BLOCKS) for first, last in spans)
    cuts = sum(last - first for first, last in spans) // _LEAST_BETWEEN_COPIES + 1
    return extents.tree_blocks(pieces + cuts)


def _device_numbers(node: Device) -> bytes:
    """i_block[0] in the old form where both numbers fit into bytes, i_block[1] in the new form else."""
    if node.major < 256 and node.minor < 256:
        return bytes((node.minor, node.major))
    return bytes(4) + encode_device(node.major, node.minor).to_bytes(4, "little")


def _digest(inodes: list[Inode]) -> bytes:
    digest = hashlib.sha256()
    for inode in inodes:
        meta = inode.meta
        names = [(name, entry.number) for name, entry in inode.entries]
        fields = (inode.mode, meta.uid, meta.gid, meta.mtime_ns, meta.xattrs, inode.size, inode.block, names)
        digest.update(repr(fields).encode())
    return digest.digest()
