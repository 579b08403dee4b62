"""A Tree as the inodes that a file system image stores: numbered in the order of `walk`, hard links found and counted.

What the kernel's VFS does not take (names, targets, owners, devices) is refused here, for every format alike.
"""

from __future__ import annotations

import gc
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

from firekiln.errors import RootfsError
from firekiln.rootfs.tree import Device, Directory, Fifo, File, Meta, Node, Socket, Symlink, Tree, Whiteout

MAX_NAME: Final = 255
MAX_TARGET: Final = 4095
MAX_PATH: Final = 4095
"""Bytes of a directory's path (PATH_MAX less a zero): no system call takes a longer one."""
MAX_NAMES: Final = 5_000_000
"""Names that an image may hold for it to be read: a Tree is held in memory."""
MAX_ID: Final = (1 << 32) - 1

_TYPES: Final[dict[type[Node], int]] = {
    File: stat.S_IFREG,
    Directory: stat.S_IFDIR,
    Symlink: stat.S_IFLNK,
    Fifo: stat.S_IFIFO,
    Socket: stat.S_IFSOCK,
    Whiteout: stat.S_IFCHR,
}

_NO_NAMES: Final = frozenset((b"", b".", b".."))

FILE_TYPES: Final = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
"""What a directory entry says of the inode's type (Linux, `include/linux/fs_types.h`): the same in EROFS and ext4."""


@dataclass(slots=True, kw_only=True, eq=False)
class Inode:
    """One inode of the image to be. `path` is the first that leads to it, `number` counts from 1, the root's.

    `type` are the S_IFMT bits under which the node is stored. `parent` is the directory of `path`, None for
    the root. `entries` are a directory's names, sorted, without `.` and `..`, which `nlink` counts.
    """

    path: bytes
    node: Node
    type: int
    number: int
    parent: Self | None
    nlink: int = 1
    entries: list[tuple[bytes, Self]] = field(default_factory=list)

    @property
    def mode(self) -> int:
        """Type and permissions; a whiteout has none."""
        permissions = 0 if isinstance(self.node, Whiteout) else self.node.meta.mode
        return self.type | stat.S_IMODE(permissions)


AnInode = TypeVar("AnInode", bound=Inode)


def inode_type(node: Node) -> int:
    """The S_IFMT bits of a node. A whiteout is a character device 0:0, as overlayfs wants it."""
    kind = _TYPES.get(type(node))
    if kind is None:
        assert isinstance(node, Device)
        return stat.S_IFBLK if node.block else stat.S_IFCHR
    return kind


def shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")


def collect(tree: Tree, kind: type[AnInode]) -> list[AnInode]:
    """All inodes in the order of `walk`, the root first. RootfsError, with the path, for an impossible name."""
    root = kind(path=b"", node=tree, type=stat.S_IFDIR, number=1, parent=None, nlink=2)
    inodes = [root]
    known: dict[int, AnInode] = {id(tree): root}
    pending = [(root, _by_name(tree))]
    while pending:
        parent, names = pending[-1]
        head = parent.path + b"/" if parent.path else b""
        for name, node in names:
            inode = known.get(id(node))
            if inode is None or isinstance(node, Whiteout):
                number = len(inodes) + 1
                inode = kind(path=head + name, node=node, type=inode_type(node), number=number, parent=parent)
                known[id(node)] = inode
                inodes.append(inode)
            else:
                inode.nlink += 1
            if len(name) > MAX_NAME or name in _NO_NAMES or b"/" in name or b"\0" in name:
                raise _no_name(name, head + name)
            parent.entries.append((name, inode))
            if isinstance(node, Directory):
                _check_directory(inode, head + name)
                inode.nlink = 2
                parent.nlink += 1
                pending.append((inode, _by_name(node)))
                break
        else:
            pending.pop()
    return inodes


@contextmanager
def collector_paused() -> Iterator[None]:
    """For as long as a Tree becomes an image: its nodes are millions of objects and no garbage, but the cyclic
    collector would look through all of them again and again, which takes longer than the image.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _by_name(directory: Directory) -> Iterator[tuple[bytes, Node]]:
    """Sorted already where an image is read, which makes it cheap."""
    children = directory.children
    names = sorted(children)
    return zip(names, map(children.__getitem__, names), strict=True)


def _no_name(name: bytes, path: bytes) -> RootfsError:
    if len(name) > MAX_NAME:
        return RootfsError(f"/{shown(path)}: a name of {len(name)} bytes; the kernel takes {MAX_NAME}")
    return RootfsError(f"/{shown(path)}: {shown(name)!r} is no name for a file")


def _check_directory(inode: Inode, path: bytes) -> None:
    if inode.nlink > 1:
        raise RootfsError(f"/{shown(path)}: a directory cannot have two names")
    if len(path) > MAX_PATH:
        raise RootfsError(f"/{shown(path[:200])}…: a path of {len(path)} bytes; the kernel takes {MAX_PATH}")


def check_owner(meta: Meta) -> None:
    """RootfsError, here and in the checks below without a path, which the caller knows."""
    if not (0 <= meta.uid <= MAX_ID and 0 <= meta.gid <= MAX_ID):
        raise RootfsError(f"owner {meta.uid}:{meta.gid} is out of range")


def check_target(target: bytes) -> None:
    if not 0 < len(target) <= MAX_TARGET or b"\0" in target:
        raise RootfsError(f"a link's target of {len(target)} bytes; the kernel takes 1 to {MAX_TARGET}")


def check_device(node: Device) -> None:
    if not (0 <= node.major < 1 << 12 and 0 <= node.minor < 1 << 20):
        raise RootfsError(f"device {node.major}:{node.minor} is out of range")
    if not (node.block or node.major or node.minor):
        raise RootfsError("a character device 0:0 means 'deleted' to overlayfs and cannot be stored")


def encode_device(major: int, minor: int) -> int:
    """`new_encode_dev` of Linux, `include/linux/kdev_t.h`: 12 bits of major, 20 of minor."""
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def decode_device(rdev: int) -> tuple[int, int]:
    """Major and minor of what `encode_device` made."""
    return (rdev & 0xFFF00) >> 8, (rdev & 0xFF) | ((rdev >> 12) & 0xFFF00)
