"""Caches (RUN --mount=type=cache) of steps in machines: each a file that holds its content as EROFS.

A machine sees its content under a layer of its own; what a step changed there is laid on what the file holds by then,
so that of steps that share a cache each one's files are kept, and of one file the last one's. A cache's owners and
modes are thus kept by whoever builds, without any rights over them. The file lies in a folder of the store that only
machines use (`VmRunner.caches`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from firekiln.rootfs import erofs
from firekiln.rootfs.merge import stack
from firekiln.rootfs.tree import Directory, Tree
from firekiln.store.durable import store_errors

_FILE: Final = "content.erofs"
_LOCK: Final = "lock"


def begin(folder: Path, tree: Tree) -> None:
    """Give a new cache its content, and the folder's own owner and mode."""
    _write(folder, tree)


def read(folder: Path) -> Tree:
    """What the cache holds now. RootfsError where it is damaged."""
    with store_errors(folder, "cannot read the cache"):
        return erofs.read(folder / _FILE)


def update(folder: Path, changes: Tree) -> None:
    """Lay what a step changed, an upper side as a Tree, on what the cache holds."""
    if not changes.children and not changes.opaque and changes.meta == read(folder).meta:
        return
    with store_errors(folder, "cannot keep the cache"), _locked(folder):
        _write(folder, stack(read(folder), changes, keep_whiteouts=False))


def _write(folder: Path, tree: Directory) -> None:
    made = folder / f".{_FILE}.{os.getpid()}"
    with store_errors(folder, "cannot keep the cache"):
        try:
            erofs.write(tree, made)
            made.replace(folder / _FILE)
        finally:
            made.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Against other steps that end, of this process or another."""
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
