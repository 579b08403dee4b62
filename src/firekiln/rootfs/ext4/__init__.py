"""ext4 images: `write` makes one of a Tree, `empty` one without files, `read` makes a Tree of one."""

from firekiln.rootfs.ext4.reader import read
from firekiln.rootfs.ext4.writer import Size, Written, empty, write

__all__ = ["Size", "Written", "empty", "read", "write"]
