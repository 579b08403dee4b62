"""Tar archives: `read` makes a Tree of one, `write` makes the canonical one of a Tree, `digest` only its digest."""

from firekiln.rootfs.tar.reader import Limits, is_archive, read
from firekiln.rootfs.tar.writer import digest, pieces, write

__all__ = ["Limits", "digest", "is_archive", "pieces", "read", "write"]
