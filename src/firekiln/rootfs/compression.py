"""Streams compressed and decompressed: gzip, zstd, xz, bzip2, or none of them."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from isal import igzip, isal_zlib

from firekiln.errors import RootfsError
from firekiln.rootfs.algorithm import Compression as Compression  # noqa: PLC0414 - a re-export
from firekiln.rootfs.algorithm import detect as detect  # noqa: PLC0414 - a re-export
from firekiln.rootfs.content import SequentialFile, Sources, Written

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


if TYPE_CHECKING:  # typeshed's own name, which is there for type checkers only
    from _typeshed import WriteableBuffer


_DAMAGE: Final[tuple[type[Exception], ...]] = (  # type: ignore[assignment]  # isal's stubs take its error for an instance
    EOFError,
    zlib.error,
    isal_zlib.error,
    lzma.LZMAError,
    zstd.ZstdError,
    ValueError,
)


_INPUT: Final = 128 << 10
"""Compressed bytes read at a time: what is decompressed of them stays in the processor's cache."""
_BEHIND: Final = 8
"""Pieces that wait to be written."""
_PIECE: Final = 256 << 10
"""Plain bytes at a time: with several layers at once larger ones take tens of megabytes, and are no faster."""
MAX_RATIO: Final = 250
"""Layers are decompressed to 2 to 10 times their size; a disk image with much room in it may be 1000 times as large."""
UNSUSPECTED: Final = 16 << 30
"""Up to so many bytes nobody asks how small they were."""


class Readable(Protocol):
    """Whatever gives bytes: at most `size`, none at the end."""

    def read(self, size: int, /) -> bytes: ...


class Decompressed:
    """The plain bytes of a stream, whatever it is compressed with. Does not close `source`."""

    def __init__(self, source: Readable, *, name: str = "archive") -> None:
        self._name = name
        buffered = io.BufferedReader(_Raw(source), _INPUT)
        self.compression = detect(buffered.peek(6))
        self._stream = _decoder(self.compression, buffered)

    def read(self, size: int, /) -> bytes:
        """RootfsError where the stream is damaged or cut off."""
        try:
            return self._stream.read(size)
        except OSError as error:
            if error.errno is not None:
                raise
            raise self._damage(error) from None  # bz2 and gzip say it so
        except _DAMAGE as error:
            raise self._damage(error) from None

    def _damage(self, error: Exception) -> RootfsError:
        return RootfsError(f"{self._name}: the {self.compression} stream is damaged or cut off ({error})")


def decompress(
    source: Readable,
    out: str | os.PathLike[str],
    *,
    limit: int,
    ratio: int = MAX_RATIO,
    unsuspected: int = UNSUSPECTED,
    name: str = "archive",
) -> Written:
    """Write the plain bytes of `source` to the file `out`; their digest is a layer's diff_id.

    RootfsError for a damaged stream, beyond `limit` bytes, and beyond `unsuspected` ones if they are more than `ratio`
    times those of `source` that were read; what was written until then is left to the caller.
    """
    bounds = _Bounds(limit=limit, ratio=ratio, unsuspected=unsuspected)
    with _new_file(out, hashed=True) as file:
        _write_all(file, _bounded(source, bounds, name))
        return Written(digest=file.digest(), size=file.position)


def spool(
    source: Readable, out: str | os.PathLike[str], *, limit: int, ratio: int = MAX_RATIO, name: str = "archive"
) -> None:
    """As `decompress`, for whoever has no use for the digest, which takes as long as all the rest."""
    with _new_file(out, hashed=False) as file:
        _write_all(file, _bounded(source, _Bounds(limit=limit, ratio=ratio, unsuspected=UNSUSPECTED), name))
        file.flush()


def _write_all(file: SequentialFile, pieces: Iterable[bytes]) -> None:
    """Write the pieces by a thread, a few of them behind whoever makes them: each takes as long as the other."""
    waiting: SimpleQueue[bytes] = SimpleQueue()
    room = threading.Semaphore(_BEHIND)
    failed: list[BaseException] = []

    def run() -> None:
        while data := waiting.get():
            try:
                if not failed:
                    file.write(data)
            except BaseException as error:  # noqa: BLE001 - raised again below
                failed.append(error)
            room.release()

    thread = threading.Thread(target=run, name="spool", daemon=True)
    thread.start()
    try:
        for data in pieces:
            room.acquire()
            if failed:
                break
            waiting.put(data)
    finally:
        waiting.put(b"")
        thread.join()
    if failed:
        raise failed[0]


class _Bounds(NamedTuple):
    limit: int
    ratio: int
    unsuspected: int


def _bounded(source: Readable, bounds: _Bounds, name: str) -> Iterator[bytes]:
    """The plain bytes in pieces, as long as they stay within `bounds`."""
    counted = _Counted(source)
    stream = Decompressed(counted, name=name)
    size = 0
    while data := stream.read(_PIECE):
        yield data
        size += len(data)
        if size > bounds.limit:
            raise RootfsError(f"{name}: more than {bounds.limit} bytes when decompressed")
        if size > bounds.unsuspected and size > bounds.ratio * counted.bytes:
            what = f"{size} bytes and more out of {counted.bytes} compressed ones"
            raise RootfsError(f"{name}: {what}: a decompression bomb?", hint="decompress it if it is meant")


@contextmanager
def _new_file(path: str | os.PathLike[str], *, hashed: bool) -> Iterator[SequentialFile]:
    with ExitStack() as cleanup:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        cleanup.callback(os.close, fd)
        yield cleanup.enter_context(SequentialFile(fd, cleanup.enter_context(Sources()), hashed=hashed))


def compressed(data: Iterable[bytes], kind: Compression) -> Iterator[bytes]:
    """The stream of `data` as one of `kind` (none, gzip or zstd), without name and time.

    zstd at its usual level; gzip by ISA-L at 2: seven times as fast as zlib at 3, and libraries are 5 % larger. As with
    every engine the compressed bytes are those of one release of one library (and of one kind of processor): what is
    compared is the digest of the plain ones.
    """
    encoder: Any  # three libraries' compressors, of one shape
    match kind:
        case Compression.NONE:
            yield from data
            return
        case Compression.GZIP:
            encoder = isal_zlib.compressobj(level=2, wbits=zlib.MAX_WBITS | 16)
        case Compression.ZSTD:
            encoder = zstd.ZstdCompressor(level=3)
        case _:
            raise ValueError(f"streams are not compressed with {kind} here")
    for piece in data:
        yield encoder.compress(piece)
    yield encoder.flush()


class _Counted:
    """A Readable that knows how many bytes it gave."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.bytes = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.bytes += len(data)
        return data


class _Raw(io.RawIOBase):
    """A Readable as the io module wants it, filling what it is given as far as there is something."""

    def __init__(self, source: Readable) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and (data := self._source.read(len(view) - filled)):
            view[filled : filled + len(data)] = data
            filled += len(data)
        return filled


class _Zstd:
    """The plain bytes of zstd's frames, as `ZstdFile` gives them after copying them once more."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._frame = zstd.ZstdDecompressor()

    def read(self, size: int, /) -> bytes:
        data = b""
        while not data:
            more = b""
            if self._frame.eof:
                more = self._frame.unused_data or self._source.read(_INPUT)
                if not more:
                    break
                self._frame = zstd.ZstdDecompressor()
            elif self._frame.needs_input:
                more = self._source.read(_INPUT)
                if not more:
                    raise EOFError("it ends within a frame")
            data = self._frame.decompress(more, size)
        return data


def _decoder(kind: Compression, source: io.BufferedReader[_Raw]) -> Readable:
    match kind:
        case Compression.GZIP:
            return igzip.IGzipFile(fileobj=source, mode="rb")  # type: ignore[no-untyped-call]  # it has no stubs
        case Compression.ZSTD:
            return _Zstd(source)
        case Compression.XZ:
            return lzma.LZMAFile(source, "rb")
        case Compression.BZIP2:
            return bz2.BZ2File(source, "rb")
        case Compression.NONE:
            return source
