"""Reads a directory of the host as a Tree: the build context, an overlay's upper side.

Lazy: a directory is read when its children are asked for, a file when its content is. Everything is opened beneath one
held descriptor of the root and through no symbolic link, so that whoever changes the directory meanwhile can make a
read fail, but cannot make it read something that lies elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

from firekiln.errors import RootfsError
from firekiln.rootfs.openat2 import open_beneath
from firekiln.rootfs.overlay import TRUSTED, USER, Xattrs, is_opaque, without_overlay
from firekiln.rootfs.tree import (
    CHUNK,
    Device,
    Directory,
    Extent,
    Fifo,
    File,
    Meta,
    Node,
    Socket,
    Symlink,
    Tree,
    Whiteout,
)
from firekiln.values import numerous

Restore: TypeAlias = Callable[[os.stat_result, Meta], Meta]
"""What a file's attributes are, given its status and what they seem to be. May raise a FirekilnError."""

_SPARSE_FROM = 4096
"""Smaller files have no room for a hole; file systems that keep them in the inode report no blocks for them."""


def read(path: str | os.PathLike[str], *, xattrs: bool = False) -> Tree:
    """The Tree of the directory at `path`, with extended attributes if asked for.

    A descriptor of the directory is held until the Tree and all its nodes are garbage; `opened` ends it at a known
    time. RootfsError, here or when a part is first looked at, for what cannot be read or was replaced meanwhile.
    """
    return _HostDirectory(os.fspath(path), xattrs=xattrs).tree()


def read_upper(path: str | os.PathLike[str], *, user_xattrs: bool) -> Tree:
    """The Tree of an overlay's upper side: whiteouts and opaque directories as such, overlayfs's own xattrs dropped.

    `user_xattrs` is that of the mount (option `userxattr`). Descriptor and errors as for `read`.
    """
    return _HostDirectory(os.fspath(path), xattrs=True, overlay=USER if user_xattrs else TRUSTED).tree()


@contextmanager
def opened(path: str | os.PathLike[str], *, xattrs: bool = False) -> Iterator[Tree]:
    """`read`, the descriptor closed on leaving: nothing more can be read of the Tree then."""
    host = _HostDirectory(os.fspath(path), xattrs=xattrs)
    try:
        yield host.tree()
    finally:
        host.close()


@contextmanager
def opened_upper(path: str | os.PathLike[str], *, user_xattrs: bool, restore: Restore | None = None) -> Iterator[Tree]:
    """`read_upper`, the descriptor closed on leaving. `restore` is asked about each file's attributes."""
    host = _HostDirectory(os.fspath(path), xattrs=True, overlay=USER if user_xattrs else TRUSTED, restore=restore)
    try:
        yield host.tree()
    finally:
        host.close()


class _HostDirectory:
    """One directory being read. `overlay` is the prefix of overlayfs's xattrs where it is an upper side."""

    def __init__(self, path: str, *, xattrs: bool, overlay: bytes = b"", restore: Restore | None = None) -> None:
        self._path = path
        self._xattrs = xattrs
        self._overlay = overlay
        self._restore = restore
        self._linked: dict[tuple[int, int], Node] = {}
        self.noted: dict[bytes, bytes] = {}
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._error(b"", error) from None
        self._close = weakref.finalize(self, os.close, self._fd)

    @property
    def root(self) -> str:
        return self._path

    @property
    def descriptor(self) -> int:
        """Held as long as anything of the Tree is."""
        return self._fd

    def close(self) -> None:
        self._fd = -1
        self._close()

    def tree(self) -> Tree:
        try:
            return self._directory(b"", os.fstat(self._fd), self._xattrs_of(self._fd, b"."))
        except OSError as error:
            raise self._error(b"", error) from None

    def open(self, path: bytes, flags: int) -> int:
        """A descriptor of what lies at `path` below the root."""
        try:
            return open_beneath(self._fd, path, flags)
        except OSError as error:
            raise self._error(path, error) from None

    def shown(self, path: bytes) -> str:
        full = os.fsencode(self._path).rstrip(b"/") + b"/" + path if path else os.fsencode(self._path)
        return full.decode(errors="backslashreplace")

    def _error(self, path: bytes, error: OSError) -> RootfsError:
        if error.errno == errno.EBADF:
            return RootfsError(f"cannot read {self.shown(path)}: the directory it lies in was closed")
        if error.errno in {errno.ELOOP, errno.EXDEV, errno.ENOTDIR} and path:
            return RootfsError(f"cannot read {self.shown(path)}: it was replaced while it was being read")
        return RootfsError(f"cannot read {self.shown(path)}: {error.strerror}")

    def _directory(self, path: bytes, status: os.stat_result, xattrs: Xattrs) -> Directory:
        opaque = bool(self._overlay) and is_opaque(xattrs, prefix=self._overlay)
        return Directory(meta=self._meta(status, xattrs), load=partial(self._children, path), opaque=opaque)

    def _children(self, path: bytes) -> dict[bytes, Node]:
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            head = path + b"/" if path else b""
            with os.scandir(fd) as entries:
                found = [(os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in entries]
            return {name: self._node(fd, name, head + name, status) for name, status in found}
        except OSError as error:
            raise self._error(path, error) from None
        finally:
            os.close(fd)

    def _node(self, parent: int, name: bytes, path: bytes, status: os.stat_result) -> Node:
        """The node of one name; the same object for each name of a hard link."""
        kind = stat.S_IFMT(status.st_mode)
        if self._overlay and kind == stat.S_IFCHR and not status.st_rdev:
            return Whiteout()
        if kind == stat.S_IFDIR:
            return self._directory(path, status, self._xattrs_of(parent, name))
        key = (status.st_dev, status.st_ino)
        known = self._linked.get(key) if status.st_nlink > 1 else None
        if known is None:
            known = self._leaf(parent, name, path, status)
            if status.st_nlink > 1:
                self._linked[key] = known
        return known

    def _leaf(self, parent: int, name: bytes, path: bytes, status: os.stat_result) -> Node:
        meta = self._meta(status, self._xattrs_of(parent, name))
        match stat.S_IFMT(status.st_mode):
            case stat.S_IFREG:
                source = HostFile(
                    self,
                    path,
                    status.st_dev,
                    status.st_ino,
                    status.st_size,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                )
                extents = tuple(
                    Extent(start, length, source, start) for start, length in _data(parent, name, status) if length
                )
                return File(meta=meta, size=status.st_size, extents=extents)
            case stat.S_IFLNK:
                return Symlink(meta=meta, target=os.readlink(name, dir_fd=parent))
            case stat.S_IFIFO:
                return Fifo(meta=meta)
            case stat.S_IFSOCK:
                return Socket(meta=meta)
            case kind:
                major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
                return Device(meta=meta, block=kind == stat.S_IFBLK, major=major, minor=minor)

    def _meta(self, status: os.stat_result, xattrs: Xattrs) -> Meta:
        meta = _meta(status, xattrs)
        return self._restore(status, meta) if self._restore else meta

    def _xattrs_of(self, parent: int, name: bytes) -> Xattrs:
        if not self._xattrs:
            return ()
        # There is no listxattrat before Linux 6.13: the magic link leads to the held directory, and no further.
        path = b"/proc/self/fd/%d/%s" % (parent, name)
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return ()
            raise
        found = []
        for attribute in names:
            try:
                found.append((os.fsencode(attribute), os.getxattr(path, attribute, follow_symlinks=False)))
            except OSError as error:
                # Listed, but the kernel has no such thing here: user.* of a fifo.
                if error.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
                    raise
        return tuple(sorted(found))


@numerous(frozen=True, slots=True, eq=False)
class HostFile:
    """A file's content, found again by its path; RootfsError if another file lies there now.

    Once `note` was told the content's digest, it is also an error if the file was written to since and has another
    content; that it has grown (a log) is none: its first `size` bytes are meant.
    The numbers are those of stat(2) when the directory that it lies in was read.
    """

    host: _HostDirectory
    path: bytes
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def root(self) -> str:
        """The directory that `path` starts from."""
        return self.host.root

    def open(self) -> _Opened:
        # Not blocking: a fifo may have taken the file's place.
        fd = self.host.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != (self.device, self.inode) or not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise RootfsError(f"cannot read {self.host.shown(self.path)}: it was replaced while it was being read")
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns) and not self._is_as_noted(fd):
            os.close(fd)
            raise RootfsError(f"cannot read {self.host.shown(self.path)}: it was changed while it was being read")
        return _Opened(fd)

    def note(self, digest: bytes) -> None:
        """Something was decided by the content that has this sha256."""
        self.host.noted[self.path] = digest

    def _is_as_noted(self, fd: int) -> bool:
        noted = self.host.noted.get(self.path)
        if noted is None:
            return True
        found, position = hashlib.sha256(), 0
        while data := os.pread(fd, min(CHUNK, self.size - position), position):
            found.update(data)
            position += len(data)
        return position == self.size and found.digest() == noted


class _Opened:
    """A descriptor and its end. contextlib's decorator would take longer than opening a small file."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)


def _meta(status: os.stat_result, xattrs: Xattrs) -> Meta:
    return Meta(
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        xattrs=without_overlay(xattrs),
    )


def _data(parent: int, name: bytes, status: os.stat_result) -> Iterator[tuple[int, int]]:
    """Starts and lengths of a file's data. A file that may not be read counts as whole: reading it will tell."""
    size = status.st_size
    if size <= _SPARSE_FROM or status.st_blocks * 512 >= size:
        yield 0, size
        return
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=parent)
    except PermissionError:
        yield 0, size
        return
    try:
        yield from _seek_data(fd, size)
    finally:
        os.close(fd)


def _seek_data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole follows
                return
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < end:
            yield start, end - start
