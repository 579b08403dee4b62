"""A Tree written into a fresh file system, by directory descriptors only: no path of it is ever followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from firekiln.rootfs.content import Sources, copy_range
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
    progress: Callable[[int], None]
    done: int = 0
    written: dict[int, bytes] = field(default_factory=dict)
    """Where a node was first written, by its identity; a second name is a hard link to it."""


def materialize(tree: Tree, folder: int, *, progress: Callable[[int], None] = lambda _: None) -> None:
    """Write `tree` into the empty directory `folder` (an O_PATH descriptor will do), its own metadata included.

    `progress` is told the bytes of content that are written. Whiteouts have no meaning there and are left out.
    OSError where the file system refuses something.
    """
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    levels = [_level(os.dup(root), b"", tree)]
    with Sources() as sources:
        writing = _Writing(root, sources, progress)
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
        _set_meta(level.fd, b".", level.node.meta, link=False)
        os.close(levels.pop().fd)
    elif isinstance(node, Directory):
        os.mkdir(name, 0o700, dir_fd=level.fd)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        levels.append(_level(os.open(name, flags, dir_fd=level.fd), level.path + name + b"/", node))
    elif not isinstance(node, Whiteout):
        _write(level, name, node, writing)


def _level(fd: int, path: bytes, node: Directory) -> _Level:
    return _Level(fd, path, node, iter(sorted(node.children.items())))


def _write(level: _Level, name: bytes, node: File | Symlink | Device | Fifo | Socket, writing: _Writing) -> None:
    first = writing.written.setdefault(id(node), level.path + name)
    if first != level.path + name:
        os.link(first, name, src_dir_fd=writing.root, dst_dir_fd=level.fd, follow_symlinks=False)
        return
    match node:
        case File():
            _write_file(level.fd, name, node, writing.sources)
            writing.done += sum(extent.length for extent in node.extents)
            writing.progress(writing.done)
        case Symlink(target=target):
            os.symlink(target, name, dir_fd=level.fd)
        case Device(block=block, major=major, minor=minor):
            kind = stat.S_IFBLK if block else stat.S_IFCHR
            os.mknod(name, kind | 0o600, os.makedev(major, minor), dir_fd=level.fd)
        case Fifo():
            os.mkfifo(name, 0o600, dir_fd=level.fd)
        case Socket():
            os.mknod(name, stat.S_IFSOCK | 0o600, dir_fd=level.fd)
    _set_meta(level.fd, name, node.meta, link=isinstance(node, Symlink))


def _write_file(parent: int, name: bytes, node: File, sources: Sources) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    try:
        for start, length, source, offset in node.extents:
            if isinstance(source, BytesSource):
                os.pwrite(fd, source.data[offset : offset + length], start)
            else:
                os.lseek(fd, start, os.SEEK_SET)
                copy_range(sources.fd(source), fd, length, offset)
        os.ftruncate(fd, node.size)
    finally:
        os.close(fd)


def _set_meta(parent: int, name: bytes, meta: Meta, *, link: bool) -> None:
    """Owner before mode, since a change of owner clears set-id bits; times last."""
    os.chown(name, meta.uid, meta.gid, dir_fd=parent, follow_symlinks=False)
    if not link:
        os.chmod(name, meta.mode, dir_fd=parent)
    for key, value in meta.xattrs:
        os.setxattr(b"/proc/self/fd/%d/%s" % (parent, name), key, value, follow_symlinks=False)
    os.utime(name, ns=(meta.mtime_ns, meta.mtime_ns), dir_fd=parent, follow_symlinks=False)
