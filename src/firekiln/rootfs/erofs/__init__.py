"""EROFS images: `write` makes one of a Tree, `read` makes a Tree of one."""

from firekiln.rootfs.content import Written
from firekiln.rootfs.erofs.reader import read
from firekiln.rootfs.erofs.writer import write

__all__ = ["Written", "read", "write"]
