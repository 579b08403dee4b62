"""What takes root's rights over mounts and over files of other owners: done here by who is root, else asked of the
keeper (`delegate.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from firekiln.rootfs.directory import opened_upper
from firekiln.rootfs.tree import Tree
from firekiln.sandbox import leftovers, mounts
from firekiln.sandbox.materialize import materialize

Waiting = Callable[[], None]
"""Called now and then by what takes long; may raise, to end it."""


class Authority(Protocol):
    """Mounts are descriptors that are attached nowhere and closed by the caller. OSError where the kernel refuses."""

    userxattr: bool
    """Whether overlays keep their notes in `user.*` attributes, as those of user namespaces do."""

    def tmpfs(self, *, size: int = 0, swap: bool = True) -> int:
        """As `mounts.tmpfs`."""
        ...

    def clone(self, path: Path, *, readonly: bool) -> int:
        """As `mounts.clone`."""
        ...

    def layer(self, path: Path, waiting: Waiting) -> int:
        """The layer of an EROFS file, as a lower side of overlays. SandboxError where it cannot be had."""
        ...

    def fill(self, folder: int, tree: Tree) -> None:
        """Write a Tree into an empty directory."""
        ...

    def own(self, folder: int, name: str, *, mode: int, uid: int, gid: int) -> None:
        """Give what we made in a directory the mode and the owner that a step is to see."""
        ...

    def upper(self, folder: str) -> AbstractContextManager[Tree]:
        """What an overlay's upper side holds, to be read until the context is left."""
        ...

    def remove(self, folder: Path) -> None:
        """Remove a folder and all below it, whoever owns that; what is not there is no error."""
        ...

    def sweep(self, layers: Path, temporary: Path | None) -> None:
        """Remove what dead processes left (in `temporary` too what only we can), and what was kept for the sake of
        layers that are not in `layers` now.
        """
        ...


class RootAuthority:
    """Root's own."""

    userxattr = False

    def __init__(self, work: Path) -> None:
        self._work = work

    def tmpfs(self, *, size: int = 0, swap: bool = True) -> int:
        return mounts.tmpfs(size=size, swap=swap)

    def clone(self, path: Path, *, readonly: bool) -> int:
        return mounts.clone(path, readonly=readonly)

    def layer(self, path: Path, waiting: Waiting) -> int:  # noqa: ARG002 - a mount takes a millisecond
        return mounts.layer(path)

    def fill(self, folder: int, tree: Tree) -> None:
        materialize(tree, folder)

    def own(self, folder: int, name: str, *, mode: int, uid: int, gid: int) -> None:
        os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
        os.chmod(name, mode, dir_fd=folder)

    def upper(self, folder: str) -> AbstractContextManager[Tree]:
        return opened_upper(folder, user_xattrs=False)

    def remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, layers: Path, temporary: Path | None) -> None:  # noqa: ARG002 - nothing is kept for root
        leftovers.sweep(str(self._work))
