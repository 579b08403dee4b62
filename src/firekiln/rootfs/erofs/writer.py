"""Writes a Tree as an EROFS image: uncompressed, read by Linux 5.15 and later, by erofs-utils 1.5 and later.

Deterministic: the same Tree gives the same bytes. Metadata first, made in memory; then content, moved by the kernel.
"""

from __future__ import annotations

import hashlib
import os
import sys
from array import array
from contextlib import ExitStack

import google_crc32c

from firekiln.errors import RootfsError
from firekiln.rootfs.content import SequentialFile, ShortSourceError, Sources, Written
from firekiln.rootfs.erofs import xattr
from firekiln.rootfs.erofs.chunks import ChunkTable
from firekiln.rootfs.erofs.layout import (
    BLOCK,
    BLOCK_BITS,
    CHECKSUM_OFFSET,
    COMPAT_MTIME,
    COMPAT_SB_CHKSUM,
    DIRENT,
    INCOMPAT_CHUNKED_FILE,
    INODE_EXTENDED,
    MAGIC,
    NULL_BLOCK,
    SUPERBLOCK,
    SUPERBLOCK_OFFSET,
    round_up,
)
from firekiln.rootfs.erofs.plan import Inode, Plan, plan
from firekiln.rootfs.inodes import FILE_TYPES, collector_paused, encode_device, shown
from firekiln.rootfs.tree import Device, Directory, File, Meta, Symlink, Tree, Whiteout

_NO_META = Meta(mode=0)


def write(tree: Tree, out: int | str | os.PathLike[str]) -> Written:
    """Write `tree` to `out`: a path, or an empty file's descriptor open for reading and writing.

    RootfsError, with the path within the Tree, for what EROFS cannot hold and for content that ends early; OSError
    where the host fails. A file that was begun is left to the caller, who alone knows its final name.
    """
    with ExitStack() as cleanup:
        cleanup.enter_context(collector_paused())
        planned = plan(tree)
        if not isinstance(out, int):
            out = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            cleanup.callback(os.close, out)
        sources = cleanup.enter_context(Sources())
        file = cleanup.enter_context(SequentialFile(out, sources))
        metadata = _metadata(planned)
        file.write(_superblock(planned, metadata))
        file.write(metadata)
        for inode in planned.inodes:
            if isinstance(inode.node, File):
                _write_content(file, inode, inode.node)
        return Written(digest=file.digest(), size=file.position)


def _superblock(planned: Plan, metadata: bytes) -> bytes:
    chunked = any(inode.chunks for inode in planned.inodes)
    block = bytearray(BLOCK)
    SUPERBLOCK.pack_into(
        block,
        SUPERBLOCK_OFFSET,
        MAGIC,
        0,
        COMPAT_SB_CHKSUM | COMPAT_MTIME,
        BLOCK_BITS,
        0,
        planned.inodes[0].nid,
        len(planned.inodes),
        0,
        0,
        planned.blocks,
        0,
        0,
        _uuid(metadata),
        b"",
        INCOMPAT_CHUNKED_FILE if chunked else 0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    )
    # The kernel's crc32c has no final inversion (erofs_superblock_csum_verify).
    checksum = google_crc32c.value(bytes(block[SUPERBLOCK_OFFSET:])) ^ 0xFFFFFFFF
    block[CHECKSUM_OFFSET : CHECKSUM_OFFSET + 4] = checksum.to_bytes(4, "little")
    return bytes(block)


def _uuid(metadata: bytes) -> bytes:
    """RFC 9562, version 8 (custom): of everything but the content."""
    uuid = bytearray(hashlib.sha256(metadata).digest()[:16])
    uuid[6] = uuid[6] & 0x0F | 0x80
    uuid[8] = uuid[8] & 0x3F | 0x80
    return bytes(uuid)


def _metadata(planned: Plan) -> bytes:
    """Everything between the superblock's block and the files' content."""
    image = bytearray((planned.data_start - 1) * BLOCK)
    for inode in planned.inodes:
        at = inode.offset - BLOCK
        _pack_inode(image, at, inode)
        at += INODE_EXTENDED.size
        image[at : at + len(inode.xattrs)] = inode.xattrs
        at += len(inode.xattrs)
        match inode.node:
            case Directory():
                data = _directory(inode)
            case Symlink(target=target):
                data = target
            case _:
                if inode.chunks:
                    table = _chunk_addresses(inode.chunks, inode.start, round_up(inode.size, BLOCK))
                    image[at : at + len(table)] = table
                continue
        cut = inode.size - inode.tail
        start = (inode.start - 1) * BLOCK
        image[start : start + cut] = data[:cut]
        image[at : at + inode.tail] = data[cut:]
    return bytes(image)


def _pack_inode(image: bytearray, at: int, inode: Inode) -> None:
    node = inode.node
    meta = _NO_META if isinstance(node, Whiteout) else node.meta
    seconds, nanoseconds = divmod(meta.mtime_ns, 10**9)
    INODE_EXTENDED.pack_into(
        image,
        at,
        inode.layout << 1 | 1,
        xattr.icount(inode.xattrs),
        inode.mode,
        0,
        inode.size,
        _union(inode),
        inode.number,
        meta.uid,
        meta.gid,
        seconds,
        nanoseconds,
        inode.nlink,
    )


def _union(inode: Inode) -> int:
    """i_u: a device's number, a chunk-based file's format, or the block where data start."""
    if isinstance(inode.node, Device):
        return encode_device(inode.node.major, inode.node.minor)
    if inode.chunks:
        return inode.chunks.bits - BLOCK_BITS
    return inode.start if inode.blocks else 0


def _directory(inode: Inode) -> bytes:
    """Blocks of entries sorted bytewise, `.` and `..` among them, each block's names behind its entries."""
    above = inode.parent or inode
    entries = sorted([*inode.entries, (b".", inode), (b"..", above)], key=lambda entry: entry[0])
    blocks: list[bytes] = []
    first, used = 0, 0
    for index, (name, _) in enumerate(entries):
        need = DIRENT.size + len(name)
        if used + need > BLOCK:
            blocks.append(_directory_block(entries[first:index]).ljust(BLOCK, b"\0"))
            first, used = index, 0
        used += need
    blocks.append(_directory_block(entries[first:]))
    return b"".join(blocks)


def _directory_block(entries: list[tuple[bytes, Inode]]) -> bytes:
    parts = []
    nameoff = DIRENT.size * len(entries)
    for name, inode in entries:
        parts.append(DIRENT.pack(inode.nid, nameoff, FILE_TYPES[inode.type], 0))
        nameoff += len(name)
    parts.extend(name for name, _ in entries)
    return b"".join(parts)


def _chunk_addresses(table: ChunkTable, start: int, size: int) -> bytes:
    addresses = array("I", [NULL_BLOCK]) * table.count
    block = start
    for first, last in table.runs:
        for chunk in range(first, last):
            addresses[chunk] = block
            block += (min(size, (chunk + 1) << table.bits) - (chunk << table.bits)) // BLOCK
    if sys.byteorder == "big":
        addresses.byteswap()
    return addresses.tobytes()


def _write_content(file: SequentialFile, inode: Inode, node: File) -> None:
    end = round_up(node.size, BLOCK)
    runs = [(0, end)]
    if inode.chunks:
        bits = inode.chunks.bits
        runs = [(first << bits, min(end, last << bits)) for first, last in inode.chunks.runs]
    extents = iter(node.extents)
    extent = next(extents, None)
    try:
        for position, stop in runs:
            while extent and extent.start < stop:
                file.zeros(extent.start - position)
                file.extent(extent.source, extent.offset, extent.length)
                position = extent.start + extent.length  # noqa: PLW2901 - a cursor within the run
                extent = next(extents, None)
            file.zeros(stop - position)
    except ShortSourceError as error:
        raise RootfsError(f"/{shown(inode.path)}: its content ended {error} bytes early while it was read") from None
    except OSError as error:
        error.add_note(f"while the content of /{shown(inode.path)} was written")
        raise
