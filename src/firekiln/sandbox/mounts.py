"""Mounts that are attached nowhere yet: descriptors, made by the process that runs builds, handed to the spawner.

Such a mount has no path that could be raced or left behind: it goes with its last descriptor. Everything of the host
that a step sees is opened here, in the caller's mount namespace, and attached later, in the step's own.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from firekiln.errors import SandboxError
from firekiln.sandbox import loop, syscalls
from firekiln.sandbox.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)

if TYPE_CHECKING:
    from pathlib import Path


def filesystem(kind: str, options: Mapping[str, str | None], *, attributes: int = 0) -> int:
    """A new file system of `kind`; an option without a value is None. OSError, its text the kernel's own where it has
    one (fsopen(2) lets the reason be read).
    """
    context = syscalls.fsopen(kind)
    try:
        for key, value in options.items():
            command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
            syscalls.fsconfig(context, command, key, value)
        syscalls.fsconfig(context, FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(context, attributes=attributes)
    except OSError as error:
        raise OSError(error.errno, _reason(context) or error.strerror, kind) from None
    finally:
        os.close(context)


def tmpfs(*, size: int = 0, mode: int = 0o755, attributes: int = MOUNT_ATTR_NODEV, swap: bool = True) -> int:
    """An empty tmpfs of at most `size` bytes (0: half of the memory). Without `swap` it stays off the disk where the
    kernel can promise that (6.4 and later).
    """
    options: dict[str, str | None] = {"mode": f"{mode:o}"}
    if size:
        options["size"] = str(size)
    if not swap:
        with contextlib.suppress(OSError):
            return filesystem("tmpfs", {**options, "noswap": None}, attributes=attributes)
    return filesystem("tmpfs", options, attributes=attributes)


def layer(path: Path) -> int:
    """The EROFS file at `path`, read-only: by the file itself (Linux 6.12 and later), else by a loop device.

    SandboxError where the file is none that the kernel mounts, or is not there.
    """
    attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV
    try:
        return filesystem("erofs", {"source": str(path), "ro": None}, attributes=attributes)
    except OSError as error:
        if error.errno not in (errno.ENOTBLK, errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP):
            raise SandboxError(f"cannot mount the layer {path}: {error.strerror}") from error
    try:
        with loop.attached(path) as device:
            return filesystem("erofs", {"source": device, "ro": None}, attributes=attributes)
    except OSError as error:
        hint = "the kernel needs EROFS: modprobe erofs" if error.errno == errno.ENODEV else None
        raise SandboxError(f"cannot mount the layer {path}: {error.strerror}", hint=hint) from error


def clone(path: Path, *, readonly: bool) -> int:
    """What lies at `path` of the host, mounts below it included, as a mount of its own. OSError where nothing does."""
    fd = syscalls.open_tree(AT_FDCWD, str(path), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)
    try:
        attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if readonly else 0)
        syscalls.mount_setattr(fd, "", AT_EMPTY_PATH | AT_RECURSIVE, attr_set=attributes)
    except OSError:
        os.close(fd)
        raise
    return fd


def _reason(context: int) -> str:
    """The last line of a file system context's log, without its level: `e message`."""
    text = ""
    with contextlib.suppress(OSError):  # ENODATA at the end
        while line := os.read(context, 4096).decode(errors="replace").strip():
            text = line.partition(" ")[2] or line
    return text
