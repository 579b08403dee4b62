"""The folder of what is being written: one below `tmp/` for each process, swept by others once its owner is gone."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import threading
import time
from pathlib import Path

from firekiln.store.durable import store_errors

_YOUNG = 60.0
"""Seconds for which an unlocked folder is spared: its owner may be about to lock it."""


class Temporary:
    """`tmp/NAME`, made and locked (flock(2)) when it is first needed, removed by `close`."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._guard = threading.Lock()
        self._folder: Path | None = None
        self._fd = -1

    @property
    def folder(self) -> Path:
        """The folder, which is there."""
        with self._guard:
            if self._folder is None:
                self._folder = self._create()
            return self._folder

    def close(self) -> None:
        with self._guard:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                os.close(self._fd)
                self._folder = None

    def _create(self) -> Path:
        folder = self._parent / secrets.token_hex(8)
        with store_errors(self._parent, "cannot write to"):
            sweep(self._parent)
            folder.mkdir(mode=0o700)
            self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        return folder


def sweep(parent: Path, *, young: float = _YOUNG) -> None:
    """Remove the folders whose owners died, those younger than `young` seconds excepted. OSError."""
    with os.scandir(parent) as entries:
        for entry in entries:
            if time.time() - entry.stat(follow_symlinks=False).st_mtime < young:
                continue
            fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
            except BlockingIOError:
                continue
            finally:
                os.close(fd)
