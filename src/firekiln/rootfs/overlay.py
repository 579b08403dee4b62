"""How overlayfs keeps what a Tree has flags for.

Source: Linux, `Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories": a whiteout is a character
device 0:0, an opaque directory has the xattr `trusted.overlay.opaque` (`user.overlay.opaque` on a mount with
`userxattr`) with the value `y`. All its other xattrs are notes of one mount to itself: they may redirect look-ups to
other paths, so none of them is ever taken from anywhere.
"""

from __future__ import annotations

from typing import Final

TRUSTED: Final = b"trusted.overlay."
USER: Final = b"user.overlay."
OPAQUE: Final = (TRUSTED + b"opaque", b"y")

Xattrs = tuple[tuple[bytes, bytes], ...]


def without_overlay(xattrs: Xattrs) -> Xattrs:
    """`xattrs` but for those that overlayfs would take for its own."""
    if xattrs and any(name.startswith((TRUSTED, USER)) for name, _ in xattrs):
        return tuple(pair for pair in xattrs if not pair[0].startswith((TRUSTED, USER)))
    return xattrs


def is_opaque(xattrs: Xattrs, *, prefix: bytes = TRUSTED) -> bool:
    """Whether `xattrs` mark an opaque directory; `prefix` is USER on a side of a mount with `userxattr`."""
    return (prefix + b"opaque", b"y") in xattrs
