"""Are a file's bytes still those of its digest? Asked before a layer or a kernel is used.

A file is read as a whole when it is first used after a boot, and whenever anything about it has changed (inode, size,
time of change or of its metadata); until then its stamp in the index vouches for it. Reading everything before every
use would cost a second for each gigabyte; never reading it would ship what a bad disk made of it. What another program
writes into the store is found at the next use; what a disk loses silently while the host runs, after the next boot or
by `firekiln system check`.

A damaged file is set aside in `damaged/`, so that it is absent and made again, or an error says that it is missing.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from firekiln.rootfs.tree import CHUNK
from firekiln.store.durable import is_forbidden, store_errors
from firekiln.store.index import Index


class Integrity:
    """What is known of the files of one store."""

    def __init__(self, root: Path, index: Index) -> None:
        self._root = root
        self._damaged = root / "damaged"
        self._index = index
        self._known: dict[Path, str] = {}

    def is_intact(self, path: Path, digest: str, *, again: bool = False) -> bool:
        """Whether the file has that digest; `again` reads it in any case. StoreError where it can't be read."""
        with store_errors(path, "cannot read"):
            stamp = stamp_of(path)
            if not again and stamp in (self._known.get(path), self._index.stamp(self._name(path))):
                self._known[path] = stamp
                return True
            intact = _digest(path) == digest
        if intact:
            self.trust([path])
        return intact

    def is_known(self, path: Path) -> bool:
        """Whether a file, of no digest, is the one that was trusted, in this boot; one that isn't is cheaply made."""
        with store_errors(path, "cannot read"), suppress(FileNotFoundError):
            return stamp_of(path) in (self._known.get(path), self._index.stamp(self._name(path)))
        return False

    def trust(self, paths: Iterable[Path]) -> None:
        """Remember files that this process has just written or read, where anything can be remembered."""
        self._index.record_stamps(self.stamps(paths))

    def stamps(self, paths: Iterable[Path]) -> dict[str, str]:
        """What `Index.record_stamps` wants to know of files that this process has just written."""
        made: dict[str, str] = {}
        for path in paths:
            self._known[path] = made[self._name(path)] = stamp_of(path)
        return made

    def forget(self, paths: Iterable[Path]) -> None:
        """Drop what was remembered of files that are gone."""
        self._index.forget_stamps([self._name(path) for path in paths])

    def set_aside(self, path: Path) -> None:
        """Take a damaged file or folder out of use. One that can't be moved, on a read-only disk, stays."""
        self._known.pop(path, None)
        with store_errors(path, "cannot set aside"):
            try:
                self._damaged.mkdir(mode=0o700, exist_ok=True)
                path.rename(self._damaged / f"{path.name}.{secrets.token_hex(4)}")
            except FileNotFoundError:
                return  # somebody else was faster
            except OSError as error:
                if not is_forbidden(error):
                    raise

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._root))


def stamp_of(path: Path) -> str:
    """What changes with a file's content, and with each boot. OSError."""
    found = path.stat()
    return f"{_boot()} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


@cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(CHUNK)
        while count := file.readinto(buffer):
            found.update(memoryview(buffer)[:count])
    return "sha256:" + found.hexdigest()
