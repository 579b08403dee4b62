"""The working area of a step: its overlay's upper side, on a tmpfs where memory allows, else on the store's disk.

On tmpfs a step writes no file of the host, and what it threw away again never costs a disk's time. The area belongs to
the process that runs builds, as a mount attached nowhere or a folder, so that it outlives the step and can be read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from firekiln.sandbox.authority import Authority
from firekiln.sandbox.leftovers import PREFIX
from firekiln.values import dataclass

ENOUGH: Final = 1 << 30
"""Bytes that a tmpfs must be able to hold to be used at all."""
_NEARLY_FULL: Final = 0.97


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A folder with `upper` and `work` in it. `mount` is to be attached in the step's namespace; `path` is how this
    process (and others while it lives) reads it; `limited` says that it is smaller than the disk.
    """

    mount: int
    path: str
    limited: bool

    def add(self, name: str) -> None:
        """One more pair of sides, in folder `name`."""
        os.mkdir(f"{self.path}/{name}", 0o755)
        _make_sides(f"{self.path}/{name}")

    def nearly_full(self) -> bool:
        """Whether a limited area has no room left that a program could count on."""
        if not self.limited:
            return False
        state = os.statvfs(self.path)
        blocks, inodes = (state.f_blocks, state.f_bfree), (state.f_files, state.f_ffree)
        return any(free < total * (1 - _NEARLY_FULL) for total, free in (blocks, inodes) if total)


@contextmanager
def on_tmpfs(size: int, authority: Authority) -> Iterator[Area]:
    """An area of at most `size` bytes in memory."""
    mount = authority.tmpfs(size=size)
    try:
        path = f"/proc/{os.getpid()}/fd/{mount}"
        _make_sides(path)
        yield Area(mount=mount, path=path, limited=True)
    finally:
        os.close(mount)


@contextmanager
def on_disk(work: Path, authority: Authority) -> Iterator[Area]:
    """An area in a folder of its own below `work`, removed afterwards (or, after a crash, by `leftovers.sweep`)."""
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=work)
    with contextlib.ExitStack() as held:
        held.callback(authority.remove, Path(folder))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        held.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        _make_sides(folder)
        mount = authority.clone(Path(folder), readonly=False)
        held.callback(os.close, mount)
        yield Area(mount=mount, path=folder, limited=False)


def tmpfs_size() -> int:
    """Bytes that a step may have in memory: half of what is available now, or 0 where the disk is the better place."""
    half = _available() // 2
    return half if half >= ENOUGH else 0


def tmpfs_keeps_xattrs(authority: Authority) -> bool:
    """Whether a tmpfs here takes the xattrs that a layer may hold (`user.*` only since Linux 6.6): by trying."""
    names = ["user.trial"] if authority.userxattr else ["user.trial", "trusted.trial", "security.trial"]
    mount = authority.tmpfs(size=1 << 20)
    try:
        for name in names:
            os.setxattr(f"/proc/self/fd/{mount}/.", name, b"y")
    except OSError:
        return False
    finally:
        os.close(mount)
    return True


def _available() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines.get("MemAvailable", "0 kB").split()[0]) << 10


def _make_sides(folder: str) -> None:
    os.mkdir(f"{folder}/upper", 0o755)
    os.mkdir(f"{folder}/work", 0o700)
