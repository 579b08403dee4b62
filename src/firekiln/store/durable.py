"""Files that survive a crash: write under a temporary name, fsync, rename, fsync the directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from firekiln.errors import StoreError
from firekiln.store import failpoint

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def store_errors(path: Path, action: str) -> Iterator[None]:
    """Turn an OSError into a StoreError that says what failed (`action`), where, and what to do about it."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path, action) from error


def store_error(error: OSError, path: Path, action: str) -> StoreError:
    """The StoreError for a failed `action` on `path`."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    message = f"{action} {path}: {reason}"
    if error.errno in _FULL:
        return StoreError(message, hint="free some space, or put the store elsewhere with --root DIR or FIREKILN_ROOT")
    if error.errno in _FORBIDDEN:
        return StoreError(message, hint="use a store that you may write to: --root DIR or FIREKILN_ROOT")
    return StoreError(message)


def fsync_directory(folder: Path) -> None:
    """Make the names in `folder` survive a power loss."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: Path) -> None:
    """Make a file's bytes survive a power loss, whoever wrote them."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """All of `data`, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def is_full(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, was too small."""
    return error.errno in _FULL


def is_forbidden(error: OSError) -> bool:
    """Whether the file or its disk may only be read."""
    return error.errno in _FORBIDDEN


def replace_file(path: Path, data: bytes, *, temporary: Path) -> None:
    """Put `data` at `path`, atomically and durably; `temporary` is a folder on the same file system."""
    scratch = temporary / f"{path.name}.{os.urandom(6).hex()}"
    try:
        with scratch.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        failpoint.reached("file-written")
        scratch.replace(path)
        failpoint.reached("file-replaced")
    except BaseException:
        with suppress(FileNotFoundError):
            scratch.unlink()
        raise
    fsync_directory(path.parent)
