"""Locks between processes: byte ranges of one file, so that no lock file is ever left behind.

They are Linux's open file description locks (fcntl(2), F_OFD_SETLK): each `Lock` opens the file anew, so that they
also exclude threads of one process, and the kernel releases them when their holder dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from firekiln.store.durable import store_errors

_FLOCK = "hhqqi"
"""`struct flock` of 64-bit Linux, natively aligned: l_type, l_whence, l_start, l_len, l_pid."""

_NAMED = 1 << 32
"""Offsets from here on stand for names, by their hash; those below are the store's own."""

IMAGES = 0
"""Held exclusively while index.json is rewritten."""
BLOBS = 1
"""Shared while a process notes which blobs it relies on; exclusive while `gc` takes those that nobody needs."""
INDEX = 2
"""Held exclusively while a damaged index.db is moved away."""


class Lock:
    """One byte of the lock file, held until `release` or the end of the context."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def transfer(self) -> Lock:
        """The lock, for somebody who will release it later; this one holds nothing any more."""
        other = Lock(self._fd)
        self._fd = -1
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Locks:
    """The locks of one store."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def acquire(self, offset: int, *, shared: bool = False, waiting: Callable[[], None] | None = None) -> Lock:
        """Wait for a lock. `waiting` is called between trials and ends the wait by raising."""
        pause = 0.001
        while True:
            lock = self.try_acquire(offset, shared=shared)
            if lock is not None:
                return lock
            if waiting is not None:
                waiting()
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def try_acquire(self, offset: int, *, shared: bool = False) -> Lock | None:
        """The lock if it is free now, else None. StoreError where the file can't be opened."""
        with store_errors(self._path, "cannot lock the store by"):
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, offset, 1, 0))
            except OSError as error:
                os.close(fd)
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    return None
                raise
        return Lock(fd)

    @contextmanager
    def held(self, offset: int, *, shared: bool = False) -> Iterator[None]:
        """Hold one of the store's own locks."""
        with self.acquire(offset, shared=shared):
            yield


def named(name: str) -> int:
    """The offset that stands for `name`, a cache key say. Two names may share one: they then exclude each other."""
    import hashlib  # noqa: PLC0415 - brings libcrypto: 3 MB that a supervisor can do without

    return _NAMED + (int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") >> 2)


def of_cache(folder: str) -> int:
    """The offset that stands for a folder below `cache/`: shared or exclusive as its mount asks."""
    return named(f"cache mount {folder}")
