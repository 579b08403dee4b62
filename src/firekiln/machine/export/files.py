"""Files that appear whole: written without a name, made durable, and named all at once.

Where the file system has no files without names (NFS, some overlays), and for folders, the name is a hidden one,
`.NAME.firekiln-…`, whose lock says that its writer lives. What a killed writer left is removed by the next one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from firekiln.errors import ExportError
from firekiln.oci.config import Json
from firekiln.store.durable import fsync_directory, is_full
from firekiln.values import dataclass

_DESCRIPTORS: Final = Path("/proc/self/fd")
_NO_UNNAMED: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
"""What a file system without O_TMPFILE answers."""


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


def inherited(path: Path) -> Sequence[int]:
    """The descriptors that a child must get (`pass_fds`) to open `path`, a file's without a name."""
    return (int(path.name),) if path.parent == _DESCRIPTORS else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _New:
    """A file on its way to `dest`: to be opened at `path`, locked by `fd`."""

    dest: Path
    path: Path
    fd: int

    @property
    def named(self) -> bool:
        return self.path.parent != _DESCRIPTORS


class NewFiles:
    """Files that are nowhere to be seen until `commit` gives them their names.

    Left without `commit`, nothing remains and what lay there before is untouched. The first file made is named last:
    whoever sees it sees all of them.
    """

    def __init__(self) -> None:
        self._files: list[_New] = []
        self._stale: list[Path] = []
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    def add(self, dest: Path) -> Path:
        """Where to write what will be `dest`: an empty file is there."""
        real = check_file(dest)
        with export_errors(dest):
            new = self._new(real)
        self._files.append(new)
        return new.path

    def scratch(self, dest: Path) -> Path:
        """An empty file on the disk of `dest`, which goes in the end."""
        with export_errors(dest):
            return self._new(check_file(dest)).path

    def write(self, dest: Path, data: bytes) -> None:
        """A small file."""
        with export_errors(dest):
            self.add(dest).write_bytes(data)

    def absent(self, dest: Path) -> None:
        """What an earlier export left there, and this one doesn't make, is removed."""
        self._stale.append(dest)

    def commit(self) -> None:
        for new in self._files:
            with export_errors(new.dest):
                os.fsync(new.fd)
        for stale in self._stale:
            with export_errors(stale), suppress(FileNotFoundError):
                stale.unlink()
        for new in reversed(self._files):
            with export_errors(new.dest):
                _give_name(new)
        for folder in {new.dest.parent for new in self._files}:
            with export_errors(folder):
                fsync_directory(folder)
        self._files.clear()

    def _new(self, dest: Path) -> _New:
        _sweep(dest)
        fd = _unnamed(dest.parent)
        if fd is None:
            path, fd = _hidden(dest)
            self._cleanup.callback(path.unlink, missing_ok=True)
        else:
            path = _DESCRIPTORS / str(fd)
        self._cleanup.callback(os.close, fd)
        return _New(dest=dest, path=path, fd=fd)


@contextmanager
def new_folder(dest: Path) -> Iterator[int]:
    """A descriptor of a new folder, which is at `dest` when the block is left. An empty one may be there already.

    ExportError where there is something else; nothing remains of a folder whose block failed.
    """
    with ExitStack() as cleanup, export_errors(dest):
        real = Path(os.path.realpath(dest))
        if real.exists() and not real.is_dir():
            raise ExportError(f"cannot write {dest}: it is no folder")
        if real.is_dir() and any(real.iterdir()):
            raise ExportError(f"cannot write {dest}: the folder is not empty", hint="empty it, or name another")
        real.parent.mkdir(parents=True, exist_ok=True)
        _sweep(real)
        temporary, fd = _hidden(real, folder=True)
        cleanup.callback(os.close, fd)
        cleanup.callback(shutil.rmtree, temporary, ignore_errors=True)
        yield fd
        temporary.replace(real)  # an empty folder gives way, another one's content never does
        fsync_directory(real.parent)


def _unnamed(folder: Path) -> int | None:
    """A locked file without a name in the folder; None where the file system, or a host without /proc, has none."""
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in _NO_UNNAMED:
            return None
        raise
    if not (_DESCRIPTORS / str(fd)).exists():
        os.close(fd)
        return None
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _hidden(dest: Path, *, folder: bool = False) -> tuple[Path, int]:
    """A new file or folder beside `dest`, and a descriptor that locks it."""
    while True:
        path = _hidden_name(dest)
        if folder:
            path.mkdir(mode=0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        else:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return path, fd
        os.close(fd)  # somebody swept it away before it was locked


def _hidden_name(dest: Path) -> Path:
    return dest.with_name(f".{dest.name[:200]}.firekiln-{secrets.token_hex(6)}")


def _give_name(new: _New) -> None:
    path = new.path
    if not new.named:
        path = new.dest if not new.dest.exists() else _hidden_name(new.dest)
        folder = os.open(_DESCRIPTORS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # a descriptor to start from makes Python call linkat(2), which follows
            os.link(new.path.name, path, src_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)
    if path != new.dest:
        path.replace(new.dest)


def _sweep(dest: Path) -> None:
    """Remove what killed writers of `dest` have left."""
    pattern = re.compile(rf"\.{re.escape(dest.name[:200])}\.firekiln-[0-9a-f]{{12}}")
    try:
        entries = list(os.scandir(dest.parent))
    except PermissionError:  # a folder may be for writing only
        return
    for entry in entries:
        if pattern.fullmatch(entry.name) and (
            entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
        ):
            _remove_unlocked(Path(entry.path))


def _remove_unlocked(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # gone, or another user's
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:  # its writer lives, or it is another user's
        return
    finally:
        os.close(fd)


def encode(document: Json) -> bytes:
    """JSON for people to read and change."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


class Beside:
    """The files beside an image, `DEST.SUFFIX`."""

    def __init__(self, files: NewFiles, dest: Path) -> None:
        self.dest = dest
        self.paths: list[Path] = []
        self._files = files

    def write(self, suffix: str, data: bytes) -> Path:
        path = self._path(suffix)
        self._files.write(path, data)
        self.paths.append(path)
        return path

    def absent(self, *suffixes: str) -> None:
        for suffix in suffixes:
            self._files.absent(self._path(suffix))

    def _path(self, suffix: str) -> Path:
        return self.dest.with_name(f"{self.dest.name}.{suffix}")
