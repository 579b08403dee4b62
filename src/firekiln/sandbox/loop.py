"""Loop devices, for kernels that cannot mount a file itself: linux/loop.h."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
_ATTEMPTS = 64


@contextmanager
def attached(path: Path) -> Iterator[str]:
    """A read-only loop device over the file at `path`: its name, good until it is left.

    The device frees itself (LO_FLAGS_AUTOCLEAR) with its last user: the mount made meanwhile, or nobody. OSError where
    there is no loop device, or none free.
    """
    backing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        name, device = _configured(backing)
    finally:
        os.close(backing)
    try:
        yield name
    finally:
        os.close(device)


def _configured(backing: int) -> tuple[str, int]:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            name = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            device = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, _config(backing))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # else somebody took it between the two calls: take another
                    raise
            else:
                return name, device
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "every loop device is taken as soon as it is free")


def _config(backing: int) -> bytes:
    """`struct loop_config`: the descriptor, a block size of the kernel's choice, and `struct loop_info64`."""
    info = struct.pack("=5Q4I", 0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR)
    return struct.pack("=II", backing, 0) + info.ljust(232, b"\0") + bytes(64)
