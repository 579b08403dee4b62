"""What an image will hold, inode by inode: sizes, xattrs, how many blocks; no block has its place yet.

Pure, and the same for the same Tree, in whatever order its directories were filled.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct

from firekiln.errors import RootfsError
from firekiln.rootfs import inodes as common
from firekiln.rootfs.ext4 import directory, extents, xattr
from firekiln.rootfs.ext4.extents import Run
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
from firekiln.rootfs.tree import Inode as Stored

LOST_FOUND = b"lost+found"
LOST_FOUND_BLOCKS = 4
_LEAST_BETWEEN_COPIES = 29_000
"""Blocks at least that lie between two copies of the superblock (`geometry.py`), where a file may be cut."""
_fields = Struct("<IIIQQ").pack
_64_BITS = (1 << 64) - 1
_NO_META = Meta(mode=0)
_NO_XATTRS = xattr.Packed()


@dataclass(slots=True, kw_only=True, eq=False)
class Inode(common.Inode):
    """One inode of the image to be.

    `blocks` is how many the inode takes at most, for content and extent tree; `spans` are the blocks of a file that
    hold data (first, past the last), none where they are `blocks` from the first on. The rest is for `placing.py` to
    set: `runs`, where the blocks lie, until they stand in `block`, which is i_block, unless that holds the data
    themselves; `data`, what a directory or a long link's target has in them; `xattrs_at`, the place of the block for
    xattrs; and `blocks` as they are, with that one.
    """

    meta: Meta = _NO_META
    size: int = 0
    spans: Sequence[tuple[int, int]] = ()
    blocks: int = 0
    xattrs: xattr.Packed = _NO_XATTRS
    runs: Sequence[Run] = ()
    data: bytes = b""
    indexed: bool = False
    block: bytes = b""
    xattrs_at: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Value(Inode):
    """The inode of an extended attribute's value. `references` are the entries that name it, once they are placed."""

    references: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`inodes` in order, numbered as ext4 does; behind them those of xattrs' `values` that no block has room for."""

    inodes: list[Inode]
    values: dict[bytes, Value]

    @property
    def last_inode(self) -> int:
        return max(self.inodes[-1].number + len(self.values), FIRST_INODE)

    def refer_to(self, value: bytes) -> int:
        """The inode of a value, which one entry more names now."""
        inode = self.values[value]
        inode.references += 1
        return inode.number

    def release(self) -> None:
        """Ends the plan: directories and what is in them refer to one another, and the collector is paused."""
        for inode in self.inodes:
            inode.parent = None

    def digest(self) -> bytes:
        """32 bytes that stand for all but the content of files. To be asked for before metadata are placed."""
        digest = hashlib.sha256()
        for inode in self.inodes:
            meta = inode.meta
            mode = inode.type | meta.mode
            digest.update(_fields(mode, meta.uid, meta.gid, meta.mtime_ns & _64_BITS, inode.size))
            if inode.type != stat.S_IFREG:
                digest.update(inode.block)
            if inode.entries:
                digest.update(b"\0".join([name for name, _ in inode.entries]))
                digest.update(b",".join([b"%d" % entry.number for _, entry in inode.entries]))
            if meta.xattrs or inode.data:
                digest.update(repr((meta.xattrs, inode.data)).encode())
        return digest.digest()


def plan(tree: Tree, *, epoch: int, whiteouts: bool) -> Plan:
    """RootfsError, with the path, for whatever ext4 cannot hold."""
    inodes = collect(_with_lost_found(tree, epoch), Inode)
    packed: dict[xattr.Xattrs, xattr.Packed] = {(): _NO_XATTRS}
    for inode in inodes:
        inode.number = ROOT_INODE if inode.parent is None else FIRST_INODE - 2 + inode.number
        try:
            _measure(inode, packed, whiteouts=whiteouts)
        except RootfsError as error:
            raise RootfsError(f"/{shown(inode.path)}: {error.message}", hint=error.hint) from None
    return Plan(inodes=inodes, values=_values(inodes))


def _values(inodes: list[Inode]) -> dict[bytes, Value]:
    """The values that have inodes of their own, each of them once."""
    values: dict[bytes, Value] = {}
    number = max(inodes[-1].number, FIRST_INODE) + 1
    for inode in inodes:
        for _, content in inode.xattrs.values:
            if content not in values:
                node = File.of(content, _NO_META)
                value = Value(path=inode.path, node=node, type=stat.S_IFREG, number=number, parent=None)
                _measure_file(value, node)
                values[content] = value
                number += 1
    return values


def _with_lost_found(tree: Tree, epoch: int) -> Tree:
    if LOST_FOUND in tree.children:
        return tree
    lost = Directory(meta=Meta(mode=0o700, mtime_ns=epoch * 10**9))
    return Directory(meta=tree.meta, children={**tree.children, LOST_FOUND: lost}, opaque=tree.opaque)


def is_spare_lost_found(inode: Inode) -> bool:
    """Whether this is the directory that gets LOST_FOUND_BLOCKS in advance."""
    return inode.path == LOST_FOUND and isinstance(inode.node, Directory) and not inode.entries


def _measure(inode: Inode, packed: dict[xattr.Xattrs, xattr.Packed], *, whiteouts: bool) -> None:
    node = inode.node
    if isinstance(node, Whiteout):
        _check_layered("a whiteout", allowed=whiteouts)
        return
    inode.meta = node.meta
    check_owner(node.meta)
    if node.meta.xattrs or isinstance(node, Directory):
        inode.xattrs = _pack_xattrs(node, packed)
    if inode.nlink > MAX_LINKS:
        _check_links(inode)
    match node:
        case File():
            _measure_file(inode, node)
        case Directory():
            if node.opaque:
                _check_layered("an opaque directory", allowed=whiteouts)
            blocks = LOST_FOUND_BLOCKS if is_spare_lost_found(inode) else directory.most_blocks(inode.entries)
            inode.blocks = _most_blocks([(0, blocks)])
        case Symlink():
            _measure_link(inode, node)
        case Device():
            check_device(node)
            inode.block = _device_numbers(node)
        case _:
            pass


def _check_layered(what: str, *, allowed: bool) -> None:
    if not allowed:
        raise RootfsError(f"{what} belongs to a layer, not to a whole file system", hint="merge the layers first")


def _pack_xattrs(node: Stored, packed: dict[xattr.Xattrs, xattr.Packed]) -> xattr.Packed:
    pairs = without_overlay(node.meta.xattrs)
    if isinstance(node, Directory) and node.opaque:
        pairs = (*pairs, OPAQUE)
    known = packed.get(pairs)
    if known is None:
        known = packed[pairs] = xattr.pack(pairs)
    return known


def _check_links(inode: Inode) -> None:
    if not isinstance(inode.node, Directory):
        raise RootfsError(f"{inode.nlink} names; ext4 counts {MAX_LINKS}")
    inode.nlink = 1  # dir_nlink: more sub-directories than can be counted


def _measure_link(inode: Inode, node: Symlink) -> None:
    check_target(node.target)
    inode.size = len(node.target)
    if inode.size < INLINE_DATA:
        inode.block = node.target
    else:
        inode.data = node.target
        inode.blocks = 1


def _measure_file(inode: Inode, node: File) -> None:
    if not 0 <= node.size <= MAX_FILE:
        raise RootfsError(f"a size of {node.size} bytes; ext4 holds {MAX_FILE}")
    inode.size = node.size
    if len(node.extents) == 1:  # nearly all files: at most cut once
        start, length, _, _ = node.extents[0]
        blocks = -(-length // BLOCK)
        if not start and 0 < blocks < _LEAST_BETWEEN_COPIES:
            inode.blocks = blocks
            return
    inode.spans = _spans(node)
    inode.blocks = _most_blocks(inode.spans)


def _spans(node: File) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for start, length, _, _ in node.extents:
        if not length:
            continue
        first, last = start // BLOCK, blocks_of(start + length)
        if spans and first <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(last, spans[-1][1]))
        else:
            spans.append((first, last))
    return spans


def _most_blocks(spans: Sequence[tuple[int, int]]) -> int:
    blocks = pieces = 0
    for first, last in spans:
        blocks += last - first
        pieces += -(-(last - first) // EXTENT_BLOCKS)
    cuts = blocks // _LEAST_BETWEEN_COPIES + 1
    return blocks + extents.tree_blocks(pieces + cuts)


def _device_numbers(node: Device) -> bytes:
    """i_block[0] in the old form where both numbers fit into bytes, i_block[1] in the new form else."""
    if node.major < 256 and node.minor < 256:
        return bytes((node.minor, node.major))
    return bytes(4) + encode_device(node.major, node.minor).to_bytes(4, "little")
