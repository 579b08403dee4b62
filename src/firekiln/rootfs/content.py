"""File content on its way into an image: the kernel moves large pieces, small ones are gathered, a thread hashes.

`SequentialFile` writes a file of the host front to back. `Sources` keeps the sources used last open, since the files of
a layer share one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections import OrderedDict
from contextlib import AbstractContextManager
from typing import Self

from firekiln.rootfs.tree import CHUNK, BytesSource, Source
from firekiln.values import dataclass

_SMALL = 128 << 10
"""Up to this many bytes, reading and gathering is cheaper than a system call more for each piece."""
_NOT_HERE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
"""copy_file_range(2), sendfile(2): the two files (or this kernel) cannot be served; another way can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written: `sha256:…` of all of it, and its bytes."""

    digest: str
    size: int


class ShortSourceError(Exception):
    """A source ended before all of an extent was read."""


class Sources:
    """Opens sources and keeps a few of them open."""

    _KEPT = 16

    def __init__(self) -> None:
        self._open: OrderedDict[int, tuple[Source, AbstractContextManager[int], int]] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._open:
            self._drop()

    def fd(self, source: Source) -> int:
        """A descriptor of `source`, valid until _KEPT other sources have been asked for."""
        known = self._open.get(id(source))
        if known:
            self._open.move_to_end(id(source))
            return known[2]
        if len(self._open) >= self._KEPT:
            self._drop()
        opened = source.open()
        fd = opened.__enter__()
        self._open[id(source)] = (source, opened, fd)
        return fd

    def _drop(self) -> None:
        _, (_, opened, _) = self._open.popitem(last=False)
        opened.__exit__(None, None, None)


def read_exactly(fd: int, length: int, offset: int) -> bytes:
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            raise ShortSourceError(length - len(data))
        data += more
    return data


def copy_range(source: int, target: int, length: int, offset: int) -> None:
    """Append `length` bytes of `source` from `offset` on to `target`, at its own position, the fastest way there is."""
    while length:
        try:
            moved = os.copy_file_range(source, target, min(length, 1 << 30), offset)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            _send(source, target, length, offset)
            return
        if not moved:
            # procfs and its like answer 0 to copy_file_range though there is more to read.
            _send(source, target, length, offset)
            return
        length -= moved
        offset += moved


def _send(source: int, target: int, length: int, offset: int) -> None:
    while length:
        try:
            moved = os.sendfile(target, source, offset, min(length, 1 << 30))
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            data = memoryview(read_exactly(source, min(length, CHUNK), offset))
            moved = len(data)
            while data:
                data = data[os.write(target, data) :]
        if not moved:
            raise ShortSourceError(length)
        length -= moved
        offset += moved


class SequentialFile:
    """Writes a new, readable and writable, empty file front to back and knows its sha256 at the end.

    Bytes are hashed by a thread that reads them back from the page cache a little behind the writer: the kernel moves
    most of them without Python seeing them, and sha256 takes longer than the copy.

    With `hashed=False` nothing is hashed, writing starts at the file's offset `start`, and others may meanwhile write
    elsewhere by pwrite(2).
    """

    def __init__(self, fd: int, sources: Sources, *, hashed: bool = True, start: int = 0) -> None:
        assert not (hashed and start)
        self.position = os.lseek(fd, start, os.SEEK_SET) if start else 0
        self._fd = fd
        self._sources = sources
        self._pieces: list[bytes] = []
        self._gathered = 0
        self._follower = _Follower(fd) if hashed else None

    def __enter__(self) -> Self:
        if self._follower:
            self._follower.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._follower:
            self._follower.abandon()

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        self._gathered += len(data)
        self.position += len(data)
        if self._gathered >= CHUNK or len(self._pieces) >= 512:  # IOV_MAX is 1024
            self.flush()

    def zeros(self, length: int) -> None:
        """`length` bytes of zeros, a hole in the file where there are many."""
        if length <= _SMALL:
            if length:
                self.write(bytes(length))
            return
        self.skip(length)

    def skip(self, length: int) -> None:
        """Leave `length` bytes as they are: a hole in a new file, or what others write there."""
        self.flush()
        self.position += length
        os.lseek(self._fd, length, os.SEEK_CUR)

    def extent(self, source: Source, offset: int, length: int) -> None:
        """Content of a source. ShortSourceError where it ends early."""
        if isinstance(source, BytesSource):
            data = source.data[offset : offset + length]
            if len(data) < length:
                raise ShortSourceError(length - len(data))
            self.write(data)
            return
        fd = self._sources.fd(source)
        if length <= _SMALL:
            self.write(read_exactly(fd, length, offset))
            return
        self.flush()
        while length:
            step = min(length, 64 * CHUNK)  # so that the follower is not left waiting
            copy_range(fd, self._fd, step, offset)
            self.position += step
            offset += step
            length -= step
            self._advance()

    def flush(self) -> None:
        pieces, self._pieces, self._gathered = self._pieces, [], 0
        if not pieces:
            return
        total = sum(map(len, pieces))
        written = os.writev(self._fd, pieces)
        if written < total:
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        self._advance()

    def _advance(self) -> None:
        if self._follower:
            self._follower.advance(self.position)

    def digest(self) -> str:
        """Ends the file; `sha256:…` of all of it."""
        assert self._follower
        self.flush()
        os.ftruncate(self._fd, self.position)
        self._follower.advance(self.position)
        return self._follower.finish()


class _Follower:
    """A thread that hashes a growing file as far as it has grown."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._digest = hashlib.sha256()
        self._grown = threading.Condition()
        self._end = 0
        self._finished = False
        self._abandoned = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="sha256", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def advance(self, end: int) -> None:
        with self._grown:
            self._end = end
            self._grown.notify()

    def abandon(self) -> None:
        """Ends the thread, wherever it is. Idempotent, also after `finish`."""
        self._abandoned = True
        self._join()

    def _join(self) -> None:
        with self._grown:
            self._finished = True
            self._grown.notify()
        self._thread.join()

    def finish(self) -> str:
        """`sha256:…` of all of it. OSError where the file could not be read back."""
        self._join()
        if self._error:
            raise self._error
        return f"sha256:{self._digest.hexdigest()}"

    def _run(self) -> None:
        buffer = memoryview(bytearray(CHUNK))
        position = 0
        try:
            while (end := self._wait(position)) > position and not self._abandoned:
                while position < end and not self._abandoned:
                    count = os.preadv(self._fd, [buffer[: min(CHUNK, end - position)]], position)
                    assert count, "a file shrank while it was written"
                    self._digest.update(buffer[:count])
                    position += count
        except OSError as error:
            self._error = error

    def _wait(self, position: int) -> int:
        with self._grown:
            self._grown.wait_for(lambda: self._finished or self._end > position)
            return self._end
