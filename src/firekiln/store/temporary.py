"""The folder of what is being written: one below `tmp/` for each process, swept by others once its owner is gone."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from firekiln.store.durable import store_errors


class Temporary:
    """`tmp/NAME`, made and locked (flock(2)) when it is first needed, removed by `close`."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self._guard = threading.Lock()
        self._folder: Path | None = None
        self._fd = -1

    @property
    def folder(self) -> Path:
        """The folder, which is there."""
        with self._guard:
            if self._folder is None:
                with store_errors(self.parent, "cannot write to"):
                    self.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    sweep(self.parent)
                    self._folder, self._fd = _create(self.parent)
            return self._folder

    @property
    def name(self) -> str | None:
        """The folder's name, if it was needed yet."""
        return self._folder.name if self._folder is not None else None

    def close(self) -> None:
        with self._guard:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                os.close(self._fd)
                self._folder = None


def sweep(parent: Path) -> None:
    """Remove the folders whose owners died. OSError."""
    for folder, fd in _folders(parent):
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def living(parent: Path) -> Iterator[Path]:
    """The folders whose owners live."""
    for folder, fd in _folders(parent):
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield folder


def _create(parent: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that locks it. Who sweeps may be faster than our lock: then once more."""
    while True:
        folder = parent / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if folder.exists():
                return folder, fd
            os.close(fd)


def _folders(parent: Path) -> Iterator[tuple[Path, int]]:
    """The folders, each with a descriptor that is closed when the next is asked for."""
    with os.scandir(parent) as entries:
        paths = [Path(entry.path) for entry in entries]
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            yield path, fd
        finally:
            os.close(fd)
