"""Writes a Tree as an ext4 file system: no mount, no root, no other program.

Deterministic: the same Tree and options give the same bytes. First everything gets its number and its place, then a
thread moves the content while the metadata are packed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace

from firekiln.errors import RootfsError
from firekiln.rootfs.ext4 import groups, inodetable
from firekiln.rootfs.ext4.content import CopyingThread, Progress
from firekiln.rootfs.ext4.geometry import Layout, fit
from firekiln.rootfs.ext4.groups import Identity
from firekiln.rootfs.ext4.journal import superblock as journal_superblock
from firekiln.rootfs.ext4.layout import BLOCK, Checksum
from firekiln.rootfs.ext4.placing import needed, place_files, place_metadata
from firekiln.rootfs.ext4.plan import Plan, plan
from firekiln.rootfs.inodes import collector_paused
from firekiln.rootfs.tree import Directory, Meta, Tree
from firekiln.values import dataclass

_MAX_LABEL = 16
_MAX_EPOCH = (1 << 32) - 1
_UUID_BYTES = 16
_PIECES = 512  # IOV_MAX is 1024

_Piece = tuple[int, bytes | memoryview]
"""Bytes and their offset in the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large an image shall be: `total` bytes, or as small as its content allows with `extra` bytes left free."""

    total: int | None = None
    extra: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written: the image's bytes, and its UUID as text."""

    size: int
    uuid: str


@collector_paused()
def write(
    tree: Tree,
    out: int | str | os.PathLike[str],
    *,
    size: Size | int | None = None,
    offset: int = 0,
    journal: bool = True,
    growth: bool = True,
    label: str = "",
    uuid: str | None = None,
    epoch: int = 0,
    whiteouts: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write `tree` to `out`: a path, or a file's descriptor open for reading and writing, whose content is dropped.

    `size` is in bytes (None: the smallest that fits); what is less than a block of it stays unused. What is free is a
    hole of the file. With `offset`, a multiple of 4 KiB, the image begins there and what lies before it is kept.
    `growth` keeps room for the descriptors of a larger file system, as mke2fs does; without it the kernel can still
    grow it. `uuid` is derived from all but the content of files where it is None. `epoch` is the
    time of birth in the superblock, in seconds. `lost+found` is added where it is missing. Times are stored as far as
    ext4 has them and e2fsck believes them (1901 to 2446, but not 2310 to 2378), others as the nearest; access, change
    and birth get the time of modification.
    Whiteouts and opaque directories, which a merged Tree has not, are stored as overlayfs wants them with
    `whiteouts`, and refused without. Extended attributes beyond an inode's rest and one block have inodes of their own
    (feature ea_inode: Linux 4.13, but not GRUB, reads them). `progress` is called by another thread.

    RootfsError, with the path within the Tree, for what ext4 cannot hold, for content that ends early and for a size
    that is too small; OSError where the host fails. A file that was begun is left to the caller, who alone knows its
    final name.
    """
    wanted = size if isinstance(size, Size) else Size(total=size)
    given = _given(label, uuid, epoch)
    planned = plan(tree, epoch=epoch, whiteouts=whiteouts)
    layout = fit(
        needed(planned),
        planned.last_inode,
        total=None if wanted.total is None else wanted.total // BLOCK,
        extra=-(-wanted.extra // BLOCK),
        journal=journal,
        growth=growth,
    )
    copies = place_files(planned, layout.space)
    with ExitStack() as cleanup:
        if not isinstance(out, int):
            out = os.open(out, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            cleanup.callback(os.close, out)
        os.ftruncate(out, offset)
        os.ftruncate(out, offset + layout.geometry.blocks * BLOCK)
        cleanup.enter_context(CopyingThread(out, copies, progress, offset=offset))
        identity = _identity(given, planned.digest())
        _write_all(out, _metadata(planned, layout, identity), offset)
        planned.release()
        del planned  # gone before the content is there
    return Written(size=layout.geometry.blocks * BLOCK, uuid=_text(identity.uuid))


def empty(
    out: int | str | os.PathLike[str],
    size: int,
    *,
    journal: bool = False,
    label: str = "",
    uuid: str | None = None,
    epoch: int = 0,
) -> Written:
    """An empty file system of `size` bytes: a scratch drive, so without a journal by habit.

    Up to 100 GiB it is made in a few milliseconds; it takes some 10 KiB of the host for each GiB. The root belongs to
    root and has mode 0755. Else as `write`.
    """
    tree = Directory(meta=Meta(mode=0o755, mtime_ns=epoch * 10**9))
    return write(tree, out, size=size, journal=journal, growth=False, label=label, uuid=uuid, epoch=epoch)


def _given(label: str, uuid: str | None, epoch: int) -> Identity:
    """What the caller says of the file system: its UUID may be empty, its hash seed is."""
    name = label.encode()
    if len(name) > _MAX_LABEL or b"\0" in name:
        raise RootfsError(f"{label!r} is no label for ext4, which takes {_MAX_LABEL} bytes")
    if not 0 <= epoch <= _MAX_EPOCH:
        raise RootfsError(f"the superblock has no place for the time {epoch}")
    return Identity(uuid=b"" if uuid is None else _parsed(uuid), hash_seed=b"", label=name, epoch=epoch)


def _identity(given: Identity, digest: bytes) -> Identity:
    return replace(given, uuid=given.uuid or _derived(digest[:_UUID_BYTES]), hash_seed=digest[_UUID_BYTES:])


def _derived(digest: bytes) -> bytes:
    """RFC 9562, version 8 (custom)."""
    uuid = bytearray(digest)
    uuid[6] = uuid[6] & 0x0F | 0x80
    uuid[8] = uuid[8] & 0x3F | 0x80
    return bytes(uuid)


def _parsed(text: str) -> bytes:
    try:
        uuid = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        uuid = b""
    if len(uuid) != _UUID_BYTES or not any(uuid):
        raise RootfsError(f"{text!r} is no UUID")
    return uuid


def _text(uuid: bytes) -> str:
    digits = uuid.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _metadata(planned: Plan, layout: Layout, identity: Identity) -> Iterator[_Piece]:
    """Everything but the content of files, each piece with its offset in the image."""
    geometry = layout.geometry
    checksum = Checksum.of_uuid(identity.uuid)
    blocks = place_metadata(planned, layout.space, checksum, identity.hash_seed)
    yield from ((block * BLOCK, data) for block, data in blocks)
    table = inodetable.inode_table(planned, checksum)
    journal_inode = b""
    if geometry.journal:
        inode = inodetable.journal_inode(layout, identity.epoch, checksum)
        inodetable.pack_into(table, inode, checksum)
        journal_inode = inodetable.kept_of_journal(inode)
        yield layout.journal[0].physical * BLOCK, journal_superblock(geometry.journal, BLOCK, identity.uuid)
    if layout.resize is not None:
        inodetable.pack_into(table, inodetable.resize_inode(layout, identity.epoch), checksum)
        doubly, reserved = groups.resize_blocks(layout)
        yield layout.resize * BLOCK, doubly
        yield (1 + geometry.descriptors) * BLOCK, reserved
    yield from ((block * BLOCK, data) for block, data in inodetable.table_pieces(layout, table))
    directories = inodetable.directories(planned, geometry)
    made = list(groups.groups(layout, last_inode=planned.last_inode, directories=directories, checksum=checksum))
    for group in made:
        yield from group.bitmaps()
    yield from groups.copies(
        geometry, identity, made, groups.Kept(journal_inode=journal_inode, values=bool(planned.values))
    )


def _write_all(fd: int, pieces: Iterable[_Piece], base: int) -> None:
    """Writes pieces at their offsets in the image, which begins at `base`; those that adjoin together."""
    gathered: list[bytes | memoryview] = []
    start = end = 0
    for offset, data in pieces:
        if offset != end or len(gathered) >= _PIECES:
            _write_at(fd, gathered, base + start)
            gathered, start, end = [], offset, offset
        gathered.append(data)
        end += len(data)
    _write_at(fd, gathered, base + start)


def _write_at(fd: int, pieces: list[bytes | memoryview], offset: int) -> None:
    if not pieces:
        return
    total = sum(map(len, pieces))
    written = os.pwritev(fd, pieces, offset)
    if written < total:
        rest = memoryview(b"".join(pieces))[written:]
        while rest:
            offset += written
            written = os.pwrite(fd, rest, offset)
            rest = rest[written:]
