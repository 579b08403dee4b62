"""Archives as ADD knows them: by their content, not their name; tar, plain or compressed with gzip, bzip2, xz, zstd."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import IO, Final, cast

from isal import igzip

from firekiln.build.spool import Spool
from firekiln.errors import BuildError
from firekiln.rootfs.overlay import without_overlay
from firekiln.rootfs.tree import CHUNK, BytesSource, Extent, File, Source
from firekiln.values import dataclass

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_BLOCK: Final = 512
_DAMAGED = (EOFError, OSError, ValueError, tarfile.TarError, lzma.LZMAError, zlib.error, zstd.ZstdError)
"""What the readers raise on content that is not theirs."""
_XATTR = "SCHILY.xattr."
_MAX_TIME_NS = (1 << 63) - 1
_MAX_SIZE = (1 << 63) - 1
_MAX_ID = (1 << 32) - 2  # the highest stands for "leave as it is" in chown(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An uncompressed tar: `size` bytes of `source` from `offset` on."""

    source: Source
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One member: tarfile's view of its header, and what it lacks. Extents lie in the archive's source."""

    header: tarfile.TarInfo
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    extents: tuple[Extent, ...]


def open_archive(file: File, folder: Path | None) -> Archive | None:
    """`file` as a tar, decompressed into an unnamed file in `folder` if need be; None where it isn't one.

    An archive without a single member is none, as for BuildKit. BuildError where it is one but ends early.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(_window(*_plain(file, folder)))
        compressed = _decompressor(reader)
        stream = stack.enter_context(compressed) if compressed else reader
        try:
            head = stream.read(_BLOCK)
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except _DAMAGED:
            return None
        if compressed is None:
            return Archive(source=reader.source, offset=reader.start, size=reader.size)
        spool = Spool(folder)
        while head:
            spool.write(head)
            try:
                head = stream.read(CHUNK)
            except _DAMAGED as error:
                raise BuildError(f"a compressed archive is damaged: {error}") from None
        return Archive(source=spool, offset=0, size=spool.size)


def entries(archive: Archive) -> Iterator[Entry]:
    """The members in their order. BuildError where a header is damaged or the archive ends early."""
    with _window(archive.source, archive.offset, archive.size) as reader:
        try:
            stream = cast("IO[bytes]", reader)
            with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                while (header := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined] # tarfile would keep them all
                    yield _entry(header, archive)
                _check_end(reader, tar.offset)
        except _DAMAGED as error:
            raise BuildError(f"an archive is damaged: {error}") from None


def _check_end(reader: _Window, offset: int) -> None:
    """Tarfile takes a damaged header behind the first one for the end of the archive."""
    reader.seek(offset)
    if any(reader.read(_BLOCK)):
        raise tarfile.ReadError(f"bad header at {offset}")


def _entry(header: tarfile.TarInfo, archive: Archive) -> Entry:
    _check_limits(header)
    xattrs = tuple(
        sorted(
            (name.removeprefix(_XATTR).encode(errors="surrogateescape"), value.encode(errors="surrogateescape"))
            for name, value in header.pax_headers.items()
            if name.startswith(_XATTR)
        )
    )
    extents = _extents(header, archive) if header.isreg() else ()
    return Entry(header=header, mtime_ns=_mtime_ns(header), xattrs=without_overlay(xattrs), extents=extents)


def _check_limits(header: tarfile.TarInfo) -> None:
    """ValueError for what a header can say and no file system can hold."""
    if "\0" in header.name or "\0" in header.linkname or (header.issym() and not header.linkname):
        raise ValueError(f"bad name in {header.name!r}")
    numbers = (
        ("uid", header.uid, _MAX_ID),
        ("gid", header.gid, _MAX_ID),
        ("device", header.devmajor, (1 << 12) - 1),
        ("device", header.devminor, (1 << 20) - 1),
        ("size", header.size, _MAX_SIZE),
    )
    for what, number, limit in numbers:
        if not 0 <= number <= limit:
            raise ValueError(f"bad {what} {number} of {header.name!r}")


def _extents(header: tarfile.TarInfo, archive: Archive) -> tuple[Extent, ...]:
    """Where the content lies. The pieces of a sparse file stand one behind the other."""
    offset = archive.offset + header.offset_data
    pieces = cast("list[tuple[int, int]] | None", header.sparse) or [(0, header.size)]
    extents, end = [], 0
    for position, length in pieces:
        if not length:  # GNU tar fills the map up with empty pieces
            continue
        if position < end or length < 0 or position + length > header.size:
            raise ValueError(f"bad map of the sparse file {header.name!r}")
        extents.append(Extent(position, length, archive.source, offset))
        end = position + length
        offset += length
    if offset > archive.offset + archive.size:
        raise tarfile.ReadError("unexpected end of data")
    return tuple(extents)


def _mtime_ns(header: tarfile.TarInfo) -> int:
    """Nanoseconds, exact; 0 where the archive's time is none that a file can bear."""
    try:
        time_ns = int(Decimal(header.pax_headers.get("mtime", header.mtime)) * 10**9)
    except (InvalidOperation, OverflowError, ValueError):
        return 0
    return time_ns if 0 <= time_ns <= _MAX_TIME_NS else 0


def _plain(file: File, folder: Path | None) -> tuple[Source, int, int]:
    """Where the content of `file` lies in one piece: a source, offset and length."""
    if not file.extents:
        return BytesSource(b""), 0, 0
    first = file.extents[0]
    if len(file.extents) == 1 and first.length == file.size:
        return first.source, first.offset, file.size
    spool = Spool(folder)
    for chunk in file.chunks():
        spool.write(chunk)
    return spool, 0, spool.size


def _decompressor(reader: _Window) -> IO[bytes] | None:
    head = reader.read(6)
    reader.seek(0)
    if head.startswith(b"\x1f\x8b\x08"):
        return cast("IO[bytes]", igzip.IGzipFile(fileobj=reader, mode="rb"))  # type: ignore[no-untyped-call]
    if head.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.BZ2File(cast("IO[bytes]", reader)))
    if head.startswith(b"\xfd7zXZ\x00"):
        return cast("IO[bytes]", lzma.LZMAFile(cast("IO[bytes]", reader)))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return cast("IO[bytes]", zstd.ZstdFile(reader))
    return None


@contextmanager
def _window(source: Source, offset: int, size: int) -> Iterator[_Window]:
    with source.open() as fd:
        yield _Window(fd, source, offset, size)


class _Window(io.RawIOBase):
    """Part of a source as a file to read. The descriptor is somebody else's and keeps its position."""

    def __init__(self, fd: int, source: Source, start: int, size: int) -> None:
        self._fd = fd
        self._position = 0
        self.source = source
        self.start = start
        self.size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self._position)
        data = os.pread(self._fd, left if size < 0 else min(size, left), self.start + self._position)
        self._position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
