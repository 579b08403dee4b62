"""openat2(2), which Python lacks: opens what lies beneath a directory and nothing else, whatever links are swapped in.

Source: the man page, and `include/uapi/linux/openat2.h`. Linux 5.6; its number is the same on every architecture.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08

_SYS_OPENAT2: Final = 437
_PATH_MAX: Final = 4096
_INSIDE: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: bytes, flags: int, *, mode: int = 0, resolve: int = _INSIDE) -> int:
    """A descriptor (close-on-exec) of `path` below `directory`. By default no symbolic link on the way is followed."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        fd = _libc.syscall(
            _SYS_OPENAT2, ctypes.c_long(directory), path, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
        )
        if fd >= 0:
            return int(fd)
        if (code := ctypes.get_errno()) != errno.EINTR:
            raise OSError(code, os.strerror(code), path)


def open_beneath(directory: int, path: bytes, flags: int) -> int:
    """`openat2` for paths of any length: beyond PATH_MAX in several steps. `b""` is the directory itself."""
    if len(path) < _PATH_MAX:
        return openat2(directory, path or b".", flags)
    cut = path.rindex(b"/", 0, _PATH_MAX)
    middle = openat2(directory, path[:cut], os.O_PATH | os.O_DIRECTORY)
    try:
        return open_beneath(middle, path[cut + 1 :], flags)
    finally:
        os.close(middle)
