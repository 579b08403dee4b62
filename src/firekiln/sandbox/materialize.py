"""A Tree written into a fresh file system, by directory descriptors only: no path of it is ever followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from firekiln.errors import SandboxError
from firekiln.rootfs.content import Sources, copy_range, read_exactly
from firekiln.rootfs.tree import (
    BytesSource,
    Device,
    Directory,
    Fifo,
    File,
    Meta,
    Node,
    Socket,
    Symlink,
    Tree,
    Whiteout,
)

_SMALL = 256 << 10
"""Up to this many bytes, reading and writing is cheaper than asking the kernel to move them."""
_DEVICES = b"dev/"


@dataclass(slots=True)
class _Level:
    """A directory being filled: its descriptor, its path below the root, its node, and the names still to do."""

    fd: int
    path: bytes
    node: Directory
    todo: Iterator[tuple[bytes, Node]]


@dataclass(slots=True)
class _Writing:
    root: int
    sources: Sources
    overlay: bool
    progress: Callable[[int], None]
    done: int = 0
    written: dict[int, bytes] = field(default_factory=dict)
    """Where a node was first written, by its identity; a second name is a hard link to it."""


def materialize(
    tree: Tree, folder: int, *, overlay: bool = False, progress: Callable[[int], None] = lambda _: None
) -> None:
    """Write `tree` into the empty directory `folder` (an O_PATH descriptor will do), its own metadata included.

    `progress` is told the bytes of content that are written. Whiteouts have no meaning there and are left out.

    With `overlay` the folder becomes a lower side of an overlay that is mounted with `userxattr`, by root of a user
    namespace: whiteouts and opaque directories are kept. Such a root makes no device nodes. Those in `/dev` are left
    out, as every step has a `/dev` of its own; another is a SandboxError, as is an owner or an attribute that is not
    the namespace's to give.

    OSError where the file system refuses something else.
    """
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    levels = [_level(os.dup(root), b"", tree)]
    with Sources() as sources:
        writing = _Writing(root, sources, overlay, progress)
        try:
            while levels:
                _turn(levels, writing)
        finally:
            for level in levels:
                os.close(level.fd)
            os.close(root)


def _turn(levels: list[_Level], writing: _Writing) -> None:
    level = levels[-1]
    name, node = next(level.todo, (b"", None))
    if node is None:
        if writing.overlay and level.node.opaque:
            os.setxattr(level.fd, b"user.overlay.opaque", b"y")
        _set_meta(level, b"", level.node.meta, writing, fd=level.fd)
        os.close(levels.pop().fd)
    elif isinstance(node, Directory):
        os.mkdir(name, 0o700, dir_fd=level.fd)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        levels.append(_level(os.open(name, flags, dir_fd=level.fd), level.path + name + b"/", node))
    elif not isinstance(node, Whiteout):
        _write(level, name, node, writing)
    elif writing.overlay:
        os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=level.fd)


def _level(fd: int, path: bytes, node: Directory) -> _Level:
    return _Level(fd, path, node, iter(sorted(node.children.items())))


def _write(level: _Level, name: bytes, node: File | Symlink | Device | Fifo | Socket, writing: _Writing) -> None:
    path = level.path + name
    if writing.overlay and isinstance(node, Device):
        if not path.startswith(_DEVICES):
            raise _refused(path, "is a device node", "only root makes those")
        return
    first = writing.written.setdefault(id(node), path)
    if first != path:
        os.link(first, name, src_dir_fd=writing.root, dst_dir_fd=level.fd, follow_symlinks=False)
        return
    match node:
        case File():
            _write_file(level, name, node, writing)
            writing.done += sum(extent.length for extent in node.extents)
            writing.progress(writing.done)
            return
        case Symlink(target=target):
            os.symlink(target, name, dir_fd=level.fd)
        case Device(block=block, major=major, minor=minor):
            kind = stat.S_IFBLK if block else stat.S_IFCHR
            os.mknod(name, kind | 0o600, os.makedev(major, minor), dir_fd=level.fd)
        case Fifo():
            os.mkfifo(name, 0o600, dir_fd=level.fd)
        case Socket():
            os.mknod(name, stat.S_IFSOCK | 0o600, dir_fd=level.fd)
    _set_meta(level, name, node.meta, writing, fd=-1 if isinstance(node, Symlink) else None)


def _write_file(level: _Level, name: bytes, node: File, writing: _Writing) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=level.fd)
    try:
        for start, length, source, offset in node.extents:
            if isinstance(source, BytesSource):
                _write_all(fd, source.data[offset : offset + length], start)
            elif length <= _SMALL:
                _write_all(fd, read_exactly(writing.sources.fd(source), length, offset), start)
            else:
                os.lseek(fd, start, os.SEEK_SET)
                copy_range(writing.sources.fd(source), fd, length, offset)
        if node.size and (not node.extents or node.extents[-1].start + node.extents[-1].length < node.size):
            os.ftruncate(fd, node.size)
        _set_meta(level, name, node.meta, writing, fd=fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes, start: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, start)
        view, start = view[written:], start + written


def _set_meta(level: _Level, name: bytes, meta: Meta, writing: _Writing, *, fd: int | None) -> None:
    """Owner before mode, since a change of owner clears set-id bits; times last.

    `fd` is what is meant, opened; -1 for a symbolic link, None where it can't be opened.
    """
    place: int | bytes = fd if fd is not None and fd >= 0 else b"/proc/self/fd/%d/%s" % (level.fd, name)
    follow = place is fd
    try:
        if meta.uid or meta.gid or not writing.overlay:  # what root of a namespace makes there is root's
            os.chown(place, meta.uid, meta.gid, follow_symlinks=follow)
        if fd != -1:
            os.chmod(place, meta.mode)
        for key, value in meta.xattrs:
            os.setxattr(place, key, value, follow_symlinks=follow)
    except OSError as error:
        if writing.overlay and error.errno in {errno.EINVAL, errno.EPERM}:
            raise _beyond(level.path + name, meta) from error
        raise
    os.utime(place, ns=(meta.mtime_ns, meta.mtime_ns), follow_symlinks=follow)


def _beyond(path: bytes, meta: Meta) -> SandboxError:
    """Says which of a file's attributes is not the namespace's to give."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        mapped = sum(int(line.split()[2]) for line in file)
    if max(meta.uid, meta.gid) >= mapped:
        why = f"there are ids up to {mapped - 1} here; /etc/subuid and /etc/subgid lend more"
        return _refused(path, f"belongs to {meta.uid}:{meta.gid}", why)
    names = ", ".join(name.decode(errors="backslashreplace") for name, _ in meta.xattrs)
    return _refused(path, f"has attributes ({names})", "only root sets those")


def _refused(path: bytes, what: str, why: str) -> SandboxError:
    shown = path.decode(errors="backslashreplace")
    return SandboxError(f"/{shown} of the image {what}, which a build without root can't give to a step", hint=why)
