"""Leases: whoever uses blobs that no image need name any more says so, and `gc` leaves them.

`Leases` are small files, `leases/NAME`, with a digest on each line. Such a lease outlives its holder until it is
released: a machine's does. A `ProcessLease` lies in the process's temporary folder and ends with the process, however
that ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock

from firekiln.oci import digest as digests
from firekiln.store import locks
from firekiln.store.durable import replace_file, store_errors
from firekiln.store.temporary import Temporary, living

_PROCESS = "lease"


class Leases:
    """The leases of one store."""

    def __init__(self, folder: Path, temporary: Temporary) -> None:
        self._folder = folder
        self._temporary = temporary

    def hold(self, name: str, blobs: Iterable[str]) -> None:
        """Keep `blobs` (digests) until `release(name)`; an earlier lease of that name is replaced."""
        text = "".join(f"{digests.check(digest)}\n" for digest in blobs)
        path = self._path(name)
        with store_errors(path, "cannot write"):
            replace_file(path, text.encode(), temporary=self._temporary.folder)

    def release(self, name: str) -> None:
        """End a lease; a missing one is no error."""
        path = self._path(name)
        with store_errors(path, "cannot remove"), suppress(FileNotFoundError):
            path.unlink()

    def names(self) -> list[str]:
        """All leases."""
        with store_errors(self._folder, "cannot read"):
            return sorted(path.name for path in self._folder.iterdir())

    def of(self, name: str) -> list[str]:
        """The digests of one lease; none where there is none."""
        path = self._path(name)
        with store_errors(path, "cannot read"), suppress(FileNotFoundError):
            return path.read_text().split()
        return []

    def blobs(self) -> set[str]:
        """All digests that somebody holds by name."""
        held: set[str] = set()
        for name in self.names():
            with suppress(FileNotFoundError):
                held.update((self._folder / name).read_text().split())
        return held

    def _path(self, name: str) -> Path:
        if not name or name.startswith(".") or os.sep in name or "\0" in name:
            raise ValueError(f'"{name}" cannot name a lease')
        return self._folder / name


class ProcessLease:
    """What this process relies on: blobs that it made or found, and that nothing else may name yet.

    A blob is noted while the lock on blobs is shared, and taken by `gc` while that is exclusive, so that a blob which
    is there when it is noted stays. Outside `held` only what is newly made is noted.
    """

    def __init__(self, temporary: Temporary, lock: locks.Locks) -> None:
        self._temporary = temporary
        self._locks = lock
        self._guard = RLock()
        self._depth = 0
        self._noted: set[str] = set()
        self._fd = -1

    @contextmanager
    def held(self) -> Iterator[None]:
        """While this lasts, whatever is found or made stays. Where the store can't be written to, it does anyway."""
        if not os.access(self._temporary.parent, os.W_OK):
            yield
            return
        with self._guard:
            self._depth += 1
        try:
            yield
        finally:
            with self._guard:
                self._depth -= 1
                if self._depth == 0:
                    self._forget()

    @property
    def is_held(self) -> bool:
        return self._depth > 0

    @contextmanager
    def noting(self, blobs: Iterable[str], *, made: bool = False) -> Iterator[None]:
        """Note `blobs` (digests); within the context none is taken. `made`: they are being made, not looked for."""
        new = [digest for digest in blobs if digest not in self._noted] if made or self._depth else []
        if not new:
            yield
            return
        with self._locks.held(locks.BLOBS, shared=True):
            self._note(new)
            yield

    def _note(self, new: list[str]) -> None:
        path = self._temporary.folder / _PROCESS
        with self._guard, store_errors(path, "cannot write"):
            if self._fd < 0:
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(self._fd, "".join(f"{digest}\n" for digest in new).encode())
            self._noted.update(new)

    def _forget(self) -> None:
        self._noted.clear()
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)

    def close(self) -> None:
        with self._guard:
            self._noted.clear()
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def of_processes(temporary: Temporary, *, own: bool) -> set[str]:
    """The digests that living processes rely on; this one's only if `own`. Call it with the lock on blobs held."""
    held: set[str] = set()
    with store_errors(temporary.parent, "cannot read"):
        for folder in living(temporary.parent):
            if own or folder.name != temporary.name:
                with suppress(FileNotFoundError):
                    held.update((folder / _PROCESS).read_text().split())
    return held
