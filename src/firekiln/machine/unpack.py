"""A Tree written into a folder of the host that may hold something already, as `docker cp` does.

By directory descriptors only: no symbolic link in the folder is followed, be it from before or from the Tree.
Directories are merged, files and links replaced; the one never takes the place of the other.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from firekiln.errors import MachineError
from firekiln.rootfs.inodes import shown
from firekiln.rootfs.tree import Device, Directory, Fifo, File, Inode, Node, Socket, Symlink, Whiteout

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(tree: Directory, folder: Path, *, keep_owner: bool) -> None:
    """Write what `tree` holds, not its root, into `folder`, which may be reached through a symbolic link.

    All is ours, without set-id bits, unless `keep_owner`. MachineError where a file is to replace a directory, or the
    other way round; OSError where the file system refuses.
    """
    fd = os.open(folder, _FOLDER & ~os.O_NOFOLLOW)
    try:
        _Unpacking(keep_owner).directory(tree, fd, b"")
    finally:
        os.close(fd)


class _Unpacking:
    def __init__(self, keep_owner: bool) -> None:
        self._keep_owner = keep_owner

    def directory(self, tree: Directory, fd: int, path: bytes) -> None:
        for name, node in sorted(tree.children.items()):
            where = path + name
            if isinstance(node, Directory):
                self._subdirectory(node, fd, name, where)
            elif not isinstance(node, Whiteout):
                self._replace(fd, name, node, where)

    def _subdirectory(self, node: Directory, fd: int, name: bytes, path: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
            new = True
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
                raise MachineError(f'cannot overwrite non-directory "{shown(path)}" with directory') from None
            new = False
        inner = os.open(name, _FOLDER, dir_fd=fd)
        try:
            self.directory(node, inner, path + b"/")
            if new:
                self._set_meta(inner, node)
        finally:
            os.close(inner)

    def _replace(self, fd: int, name: bytes, node: Node, path: bytes) -> None:
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
                raise MachineError(f'cannot overwrite directory "{shown(path)}" with non-directory')
            os.unlink(name, dir_fd=fd)
        match node:
            case File():
                self._file(fd, name, node)
            case Symlink(target=target):
                os.symlink(target, name, dir_fd=fd)
                self._set_owner(fd, name, node)
            case Device(block=block, major=major, minor=minor):
                kind = stat.S_IFBLK if block else stat.S_IFCHR
                os.mknod(name, kind | 0o600, os.makedev(major, minor), dir_fd=fd)
            case Fifo():
                os.mkfifo(name, 0o600, dir_fd=fd)
            case Socket():
                return  # nobody listens to a copy
            case _:
                raise AssertionError(node)

    def _file(self, fd: int, name: bytes, node: File) -> None:
        new = os.open(name, _NEW, 0o600, dir_fd=fd)
        try:
            position = 0
            for chunk in node.chunks():
                if chunk.strip(b"\0"):
                    view = memoryview(chunk)
                    while view:
                        view = view[os.pwrite(new, view, position + len(chunk) - len(view)) :]
                position += len(chunk)
            os.ftruncate(new, node.size)
            self._set_meta(new, node)
        finally:
            os.close(new)

    def _set_meta(self, fd: int, node: Inode) -> None:
        """Owner before mode, which a change of owner changes; the time last."""
        meta = node.meta
        if self._keep_owner:
            os.chown(fd, meta.uid, meta.gid)
        os.chmod(fd, meta.mode if self._keep_owner else meta.mode & 0o1777)
        os.utime(fd, ns=(meta.mtime_ns, meta.mtime_ns))

    def _set_owner(self, fd: int, name: bytes, node: Symlink) -> None:
        if self._keep_owner:
            os.chown(name, node.meta.uid, node.meta.gid, dir_fd=fd, follow_symlinks=False)
        os.utime(name, ns=(node.meta.mtime_ns, node.meta.mtime_ns), dir_fd=fd, follow_symlinks=False)
