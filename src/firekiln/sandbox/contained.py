"""Paths of an image's file system, walked by descriptors so that no symbolic link leads out of it.

Links are read and followed here, component by component, each opened with O_NOFOLLOW below the directory before it:
`..` ends at the root, an absolute target starts there again, and the kernel's magic links (/proc/PID/fd) are but text.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import field

from firekiln.sandbox.request import Stub
from firekiln.values import dataclass

MAX_LINKS = 40
_PROBE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True, kw_only=True)
class _Walk:
    """The way so far: `fds[0]` is the root, `fds[i + 1]` what `names[i]` leads to."""

    fds: list[int]
    names: list[bytes] = field(default_factory=list)
    pending: deque[bytes] = field(default_factory=deque)
    links: int = 0
    made: list[str] = field(default_factory=list)
    above: list[tuple[str, int, int, int, int]] = field(default_factory=list)
    held: ExitStack = field(default_factory=ExitStack)


@contextmanager
def found(root: int, path: str) -> Iterator[int]:
    """An O_PATH descriptor of what `path` leads to below the directory `root`. OSError where nothing is there."""
    with _walked(root, path, make=None) as (fd, _):
        yield fd


@contextmanager
def ensured(root: int, path: str, *, directory: bool) -> Iterator[tuple[int, Stub | None]]:
    """As `found`, but what is missing is made: directories (0755, root's) and, unless `directory`, an empty file last.

    The times of the directory that holds the first new name stay as they were. The Stub says what was made on the
    file system of `root` itself; it is None where nothing was.
    """
    with _walked(root, path, make="directory" if directory else "file") as (fd, stub):
        yield fd, stub


@contextmanager
def _walked(root: int, path: str, *, make: str | None) -> Iterator[tuple[int, Stub | None]]:
    walk = _Walk(fds=[root], pending=deque(_parts(os.fsencode(path))))
    with walk.held:
        while walk.pending:
            _step(walk, walk.pending.popleft(), make)
        yield walk.fds[-1], Stub(made=tuple(walk.made), above=tuple(walk.above)) if walk.made else None


def _step(walk: _Walk, name: bytes, make: str | None) -> None:
    if name == b"..":
        if walk.names:
            walk.names.pop()
            walk.fds.pop()
        return
    try:
        fd = _opened(walk, name)
    except FileNotFoundError:
        if make is None:
            raise
        _make(walk, name, directory=bool(walk.pending) or make == "directory")
        fd = _opened(walk, name)
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        _follow(walk, name, fd)
    else:
        walk.names.append(name)
        walk.fds.append(fd)


def _opened(walk: _Walk, name: bytes) -> int:
    fd = os.open(name, _PROBE, dir_fd=walk.fds[-1])
    walk.held.callback(os.close, fd)
    return fd


def _follow(walk: _Walk, name: bytes, fd: int) -> None:
    walk.links += 1
    if walk.links > MAX_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(name))
    target = os.readlink(b"", dir_fd=fd)
    walk.pending.extendleft(reversed(_parts(target)))
    if target.startswith(b"/"):
        walk.names.clear()
        del walk.fds[1:]


def _make(walk: _Walk, name: bytes, *, directory: bool) -> None:
    parent = walk.fds[-1]
    before = os.fstat(parent)
    ours = before.st_dev == os.fstat(walk.fds[0]).st_dev  # else it lies on a mount that goes with the step anyway
    if ours and not walk.made:
        walk.above.extend(_above(walk))
    if directory:
        os.mkdir(name, 0o755, dir_fd=parent)
    else:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
    if not ours:
        return
    if not walk.made:
        os.utime(b".", ns=(before.st_atime_ns, before.st_mtime_ns), dir_fd=parent)
    walk.made.append(os.fsdecode(b"/".join((*walk.names, name))))


def _above(walk: _Walk) -> Iterator[tuple[str, int, int, int, int]]:
    device = os.fstat(walk.fds[0]).st_dev
    for depth, fd in enumerate(walk.fds):
        made = os.fstat(fd)
        if made.st_dev == device:
            path = os.fsdecode(b"/".join(walk.names[:depth]))
            yield path, stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid, made.st_mtime_ns


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in {b"", b"."}]
