"""Files of a snapshot: memory and drives, mostly holes, copied and told apart by what is in them.

The digest of a sparse file is that of its blocks that are not all zeros, each behind its number: holes cost nothing,
and a copy whose holes lie elsewhere has the same.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from firekiln.values import dataclass

_FICLONE: Final = 0x40049409  # linux/fs.h
_PAGE: Final = 4096
_BLOCK: Final = 1 << 16
_CHUNK: Final = 1 << 20
_ZEROS: Final = bytes(_PAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What a file of a snapshot was when it was made. `size` is in bytes, holes included."""

    size: int
    digest: str


def seal(path: Path) -> Seal:
    """Read a file. OSError."""
    found = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        last = -1
        for start, end in _extents(fd, size):
            for number in range(max(start // _BLOCK, last + 1), -(-end // _BLOCK)):
                data = os.pread(fd, _BLOCK, number * _BLOCK)
                if data.count(0) != len(data):
                    found.update(number.to_bytes(8, "little"))
                    found.update(data)
                last = number
    finally:
        os.close(fd)
    return Seal(size=size, digest=f"sha256:{found.hexdigest()}")


def copy_memory(memory: int, target: Path, size: int) -> None:
    """Copy a guest's memory to a new file, leaving out the pages that are zeros. OSError."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
        for start, end in _extents(memory, size):
            for position in range(start, end, _CHUNK):
                data = memoryview(os.pread(memory, min(_CHUNK, end - position), position))
                for first, last in _written(data):
                    _write(fd, data[first:last], position + first)
    finally:
        os.close(fd)


def copy_drive(source: Path, target: Path) -> None:
    """Copy a drive to `target`, which is replaced: by reference where the file system can, else its data. OSError."""
    origin = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if not _clone(origin, fd):
                size = os.fstat(origin).st_size
                os.ftruncate(fd, size)
                for start, end in _extents(origin, size):
                    _copy_range(origin, fd, start, end)
        finally:
            os.close(fd)
    finally:
        os.close(origin)


def _clone(origin: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, origin)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL):
            return False
        raise
    return True


def _copy_range(origin: int, target: int, start: int, end: int) -> None:
    while start < end:
        count = os.copy_file_range(origin, target, end - start, start, start)
        if not count:  # it has become shorter
            return
        start += count


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where there is data, from first byte to behind the last."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, position


def _written(data: memoryview) -> Iterator[tuple[int, int]]:
    """Runs of pages that aren't all zeros."""
    first = -1
    for position in range(0, len(data), _PAGE):
        page = data[position : position + _PAGE]
        empty = page == _ZEROS[: len(page)]
        if empty and first >= 0:
            yield first, position
        first = -1 if empty else max(first, position if first < 0 else first)
    if first >= 0:
        yield first, len(data)


def _write(fd: int, data: memoryview, position: int) -> None:
    while data:
        count = os.pwrite(fd, data, position)
        data, position = data[count:], position + count
