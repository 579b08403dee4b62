"""Files that appear whole: written beside their final name, made durable, and renamed all at once."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from firekiln.errors import ExportError
from firekiln.store.durable import fsync_directory, fsync_file, is_full


@contextmanager
def export_errors(dest: Path) -> Iterator[None]:
    """Turn an OSError into an ExportError that names `dest`."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        hint = "free some space, or write to another disk" if is_full(error) else None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "choose a place that you may write to"
        raise ExportError(f"cannot write {dest}: {reason}", hint=hint) from error


def check_file(dest: Path) -> Path:
    """Where a file may be put: `dest` itself, or what it is a link to. ExportError for what may not be replaced."""
    with export_errors(dest):
        real = Path(os.path.realpath(dest))
        try:
            mode = real.stat().st_mode
        except FileNotFoundError:
            if not real.parent.is_dir():
                raise ExportError(f"cannot write {dest}: there is no folder {real.parent}") from None
            return real
    if stat.S_ISDIR(mode):
        raise ExportError(f"cannot write {dest}: it is a folder", hint="name a file in it")
    if not stat.S_ISREG(mode):
        raise ExportError(
            f"cannot write {dest}: it is no regular file", hint="write to a file, then copy it to the device"
        )
    return real


class NewFiles:
    """Files under temporary names, each beside where it is to be. `commit` gives them their names.

    Left without `commit`, nothing remains and what lay there before is untouched. The first file made is named last:
    whoever sees it sees all of them.
    """

    def __init__(self) -> None:
        self._files: list[tuple[Path, Path]] = []
        self._stale: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for temporary, _ in self._files:
            with suppress(FileNotFoundError):
                temporary.unlink()

    def add(self, dest: Path) -> Path:
        """A name, not taken, for what will be `dest`."""
        real = check_file(dest)
        temporary = real.with_name(f".{real.name[:200]}.{secrets.token_hex(6)}")
        self._files.append((temporary, real))
        return temporary

    def write(self, dest: Path, data: bytes) -> None:
        """A small file."""
        with export_errors(dest):
            self.add(dest).write_bytes(data)

    def absent(self, dest: Path) -> None:
        """What an earlier export left there, and this one doesn't make, is removed."""
        self._stale.append(dest)

    def commit(self) -> None:
        for temporary, dest in self._files:
            with export_errors(dest):
                fsync_file(temporary)
        for stale in self._stale:
            with export_errors(stale), suppress(FileNotFoundError):
                stale.unlink()
        for temporary, dest in reversed(self._files):
            with export_errors(dest):
                temporary.replace(dest)
        for folder in {dest.parent for _, dest in self._files}:
            with export_errors(folder):
                fsync_directory(folder)
        self._files.clear()


@contextmanager
def new_folder(dest: Path) -> Iterator[int]:
    """A descriptor of a new folder, which is at `dest` when the block is left. An empty one may be there already.

    ExportError where there is something else; nothing remains of a folder whose block failed.
    """
    with export_errors(dest):
        real = Path(os.path.realpath(dest))
        if real.exists() and not real.is_dir():
            raise ExportError(f"cannot write {dest}: it is no folder")
        if real.is_dir() and any(real.iterdir()):
            raise ExportError(f"cannot write {dest}: the folder is not empty", hint="empty it, or name another")
        real.parent.mkdir(parents=True, exist_ok=True)
        temporary = real.with_name(f".{real.name[:200]}.{secrets.token_hex(6)}")
        temporary.mkdir(mode=0o700)
    try:
        fd = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with export_errors(dest):
                yield fd
        finally:
            os.close(fd)
        with export_errors(dest):
            temporary.replace(real)  # an empty folder gives way, another one's content never does
            fsync_directory(real.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
