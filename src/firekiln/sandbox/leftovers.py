"""Folders of work that processes make, lock (flock(2)) while they live, and leave behind when they are killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from typing import Final

PREFIX: Final = "firekiln-step-"
_YOUNG: Final = 1.0
"""Seconds for which an unlocked folder is spared: it is locked right after it is made."""


def sweep(folder: str) -> None:
    """Remove those in `folder` whose owners died."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if name.startswith(PREFIX):
                remove_unlocked(os.path.join(folder, name))


def remove_unlocked(path: str) -> None:
    """Remove one unless it is locked or young."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as held:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        held.callback(os.close, fd)
        if time.time() - os.fstat(fd).st_mtime >= _YOUNG:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
