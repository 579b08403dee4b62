"""The index: what build steps resulted in, and facts about layers and other files. SQLite in WAL mode.

All of it can be had again from the blobs or by building again, so that a damaged index costs work and never data: it
is set aside as `index.db.damaged` and a new one begun. It is opened when it is first asked. On a disk that may only be
read it is read as it lies there, and an index that is absent or damaged holds nothing.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from firekiln.errors import StoreError
from firekiln.store import locks
from firekiln.store.durable import store_error, store_errors
from firekiln.store.wal import BUSY_SECONDS, switch_to_wal
from firekiln.values import dataclass

_T = TypeVar("_T")

_SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE results (
    key     TEXT PRIMARY KEY,
    chain   TEXT NOT NULL,      -- what the keys of users of this result are made of
    layers  TEXT NOT NULL,      -- digests, lowest first, with spaces between
    created TEXT NOT NULL,      -- RFC 3339, for the image's history
    used    INTEGER NOT NULL    -- seconds since the epoch, for pruning
) WITHOUT ROWID;
CREATE TABLE diff_ids (
    layer   TEXT PRIMARY KEY,
    diff_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE tars (
    layer       TEXT NOT NULL,
    compression TEXT NOT NULL,
    digest      TEXT NOT NULL,  -- of the compressed tar that the layer was turned into
    size        INTEGER NOT NULL,
    diff_id     TEXT NOT NULL,  -- the plain one's
    PRIMARY KEY (layer, compression)
) WITHOUT ROWID;
CREATE TABLE stamps (
    file    TEXT PRIMARY KEY,   -- below the store's folder
    stamp   TEXT NOT NULL       -- of the file whose bytes were seen to be right
) WITHOUT ROWID;
CREATE TABLE folders (
    name    TEXT PRIMARY KEY,   -- below cache/
    used    INTEGER NOT NULL    -- seconds since the epoch
) WITHOUT ROWID;
"""
_TOUCH_AFTER = 3600
"""`used` is exact to this many seconds, so that most builds that find everything write nothing."""

_DAMAGED = -1
"""Stands for the inode of an index that is damaged and can't be moved away."""
_ROOM = 256 << 10
"""Bytes: with less it is not opened. SQLite maps its log's index, and a page that finds no block ends the process."""
_TRIALS, _PAUSE = 10, 0.05
_FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})
_LEAST_SPACE = 1 << 20
"""Bytes: with less, a failure of SQLite's is put down to the full disk, whatever it calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a build step resulted in: its snapshot's layers (digests, lowest first) and when it ran (RFC 3339).

    `chain` identifies the step and its history; keys of steps that stand on this one are made of it.
    """

    chain: str
    layers: tuple[str, ...]
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A recorded result as pruning sees it: its key, its layers' digests, when it was last used (Unix seconds)."""

    key: str
    layers: tuple[str, ...]
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangedTar:
    """The compressed tar that a layer was turned into for others: its digest and size, and the plain tar's digest."""

    digest: str
    size: int
    diff_id: str


class Index:
    """One store's index. Safe to use from several threads and several processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def close(self) -> None:
        with self._guard:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def result(self, key: str) -> Result | None:
        """What was recorded under `key`."""
        row = self._try(
            lambda db: db.execute("SELECT chain, layers, created FROM results WHERE key = ?", (key,)).fetchone()
        )
        return Result(chain=row[0], layers=tuple(row[1].split()), created=row[2]) if row else None

    def record(self, results: Mapping[str, Result], stamps: Mapping[str, str] = MappingProxyType({})) -> None:
        """Record results under their keys, and stamps of files, all or none, in place of what stood there."""
        now = int(time.time())
        rows = [(key, item.chain, " ".join(item.layers), item.created, now) for key, item in results.items()]
        writes = [("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", rows), _stamps(stamps)]
        self._try(lambda db: _write(db, *writes))

    def touch(self, keys: Iterable[str]) -> None:
        """Note that these results were used now."""
        now = int(time.time())
        wanted = list(keys)

        def stale(db: sqlite3.Connection) -> list[str]:
            marks = ",".join("?" * len(wanted))
            # A time to come was noted before the clock was set back.
            query = f"SELECT key FROM results WHERE used NOT BETWEEN ? AND ? AND key IN ({marks})"  # noqa: S608 - question marks only
            return [row[0] for row in db.execute(query, (now - _TOUCH_AFTER, now + _TOUCH_AFTER, *wanted))]

        if rows := [(now, key) for key in self._try(stale)]:
            self._try(lambda db: _write(db, ("UPDATE results SET used = ? WHERE key = ?", rows)))

    def uses(self) -> list[Use]:
        """All results, those used longest ago first. What lies in the future (a clock was set back) was used now."""
        rows = self._try(lambda db: db.execute("SELECT key, layers, used FROM results ORDER BY used, key").fetchall())
        now = int(time.time())
        return [Use(key=row[0], layers=tuple(row[1].split()), used=min(row[2], now)) for row in rows]

    def keys_of(self, results: Iterable[Result]) -> dict[str, Result]:
        """Every key under which one of `results` is recorded, with the result."""
        rows = {(item.chain, " ".join(item.layers), item.created): item for item in results}
        marks = ",".join("?" * len(rows))
        found = self._try(
            lambda db: db.execute(
                f"SELECT key, chain, layers, created FROM results WHERE chain IN ({marks})",  # noqa: S608 - question marks only
                [chain for chain, _, _ in rows],
            ).fetchall()
        )
        return {row[0]: rows[row[1:]] for row in found if row[1:] in rows}

    def forget(self, keys: Iterable[str]) -> None:
        """Drop results."""
        rows = [(key,) for key in keys]
        self._try(lambda db: _write(db, ("DELETE FROM results WHERE key = ?", rows)))

    def layers_of_results(self) -> set[str]:
        """The digests of all layers that a result names."""
        rows = self._try(lambda db: db.execute("SELECT DISTINCT layers FROM results").fetchall())
        return {digest for row in rows for digest in row[0].split()}

    def diff_id(self, layer: str) -> str | None:
        row = self._try(lambda db: db.execute("SELECT diff_id FROM diff_ids WHERE layer = ?", (layer,)).fetchone())
        return str(row[0]) if row else None

    def record_diff_id(self, layer: str, diff_id: str) -> None:
        self._try(lambda db: _write(db, ("INSERT OR REPLACE INTO diff_ids VALUES (?, ?)", [(layer, diff_id)])))

    def tar(self, layer: str, compression: str) -> ExchangedTar | None:
        """What a layer's tar was the last time that it was made: the same layer gives the same."""
        query = "SELECT digest, size, diff_id FROM tars WHERE layer = ? AND compression = ?"
        row = self._try(lambda db: db.execute(query, (layer, compression)).fetchone())
        return ExchangedTar(digest=row[0], size=row[1], diff_id=row[2]) if row else None

    def record_tar(self, layer: str, compression: str, tar: ExchangedTar) -> None:
        row = (layer, compression, tar.digest, tar.size, tar.diff_id)
        self._try(lambda db: _write(db, ("INSERT OR REPLACE INTO tars VALUES (?, ?, ?, ?, ?)", [row])))

    def stamp(self, file: str) -> str | None:
        """The stamp of a file (its path below the store's folder) whose bytes were seen to be right."""
        row = self._try(lambda db: db.execute("SELECT stamp FROM stamps WHERE file = ?", (file,)).fetchone())
        return str(row[0]) if row else None

    def record_stamps(self, stamps: Mapping[str, str]) -> None:
        """Remember stamps, where the index can be written to."""
        if self._is_writable():
            self._try(lambda db: _write(db, _stamps(stamps)))

    def forget_stamps(self, files: Iterable[str]) -> None:
        """Drop the stamps of files that are gone."""
        if rows := [(file,) for file in files]:
            self._try(lambda db: _write(db, ("DELETE FROM stamps WHERE file = ?", rows)))

    def touch_folder(self, name: str) -> None:
        """Note that a folder below `cache/` is used now."""
        now = int(time.time())
        if abs(now - self.folders().get(name, 0)) > _TOUCH_AFTER:
            self._try(lambda db: _write(db, ("INSERT OR REPLACE INTO folders VALUES (?, ?)", [(name, now)])))

    def folders(self) -> dict[str, int]:
        """When folders below `cache/` were last used (Unix seconds), as far as that is known."""
        return dict(self._try(lambda db: db.execute("SELECT name, used FROM folders").fetchall()))

    def forget_folder(self, name: str) -> None:
        self._try(lambda db: _write(db, ("DELETE FROM folders WHERE name = ?", [(name,)])))

    def _try(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        """Carry out `action`; where the index proves damaged, begin a new one and try once more."""
        with self._guard, store_errors(self._path, "cannot use the index"):
            try:
                return action(self._open())
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise self._error(error) from error
                self._set_aside()
            try:
                return action(self._open())
            except sqlite3.DatabaseError as error:
                raise self._error(error) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._is_writable():
                self._check_room()
                connection = sqlite3.connect(
                    self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
                self._inode = _inode(self._path)
            else:
                connection = self._frozen()
            try:
                _prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _check_room(self) -> None:
        """OSError where the disk is too full, also after a moment: xfs frees what was deleted in the background."""
        for _ in range(_TRIALS):
            if _free(self._path.parent) >= _ROOM:
                return
            time.sleep(_PAUSE)
        raise OSError(errno.ENOSPC, "")

    def _is_writable(self) -> bool:
        return os.access(self._path.parent, os.W_OK) and (not self._path.exists() or os.access(self._path, os.W_OK))

    def _frozen(self) -> sqlite3.Connection:
        """What can be read where nothing can be written: no lock, and no log, is possible there."""
        if self._inode != _DAMAGED and self._path.exists():
            address = f"{self._path.absolute().as_uri()}?immutable=1"
            return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
        return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)

    def _set_aside(self) -> None:
        """Move the damaged index away, unless another process did so meanwhile."""
        self.close()
        if not self._is_writable():
            self._inode = _DAMAGED
            return
        with locks.Locks(self._path.with_name("lock")).held(locks.INDEX):
            if _inode(self._path) != self._inode:
                return
            for suffix in ("-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            self._path.replace(f"{self._path}.damaged")

    def _error(self, error: sqlite3.DatabaseError) -> StoreError:
        if not self._is_writable():
            return store_error(OSError(errno.EROFS, ""), self._path, "cannot write")
        # Where the disk is full SQLite may call it an I/O error: the log's index could not grow.
        if getattr(error, "sqlite_errorname", "") in _FULL or _free(self._path.parent) < _LEAST_SPACE:
            return store_error(OSError(errno.ENOSPC, ""), self._path, "cannot write")
        return StoreError(f"cannot use the index {self._path}: {error}")


def _prepare(connection: sqlite3.Connection) -> None:
    """Create what a new index lacks; an index of another version counts as damaged: nothing in it is irreplaceable."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute("PRAGMA synchronous = FULL")
    if version == _SCHEMA_VERSION:
        return
    if version != 0:
        raise sqlite3.DatabaseError("malformed: another version of the schema")
    switch_to_wal(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


_Write: TypeAlias = tuple[str, Sequence[tuple[object, ...]]]
"""A statement, and the rows that it is carried out for."""


def _write(connection: sqlite3.Connection, *writes: _Write) -> None:
    """All of `writes`, or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement, rows in writes:
            connection.executemany(statement, rows)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _stamps(stamps: Mapping[str, str]) -> _Write:
    return "INSERT OR REPLACE INTO stamps VALUES (?, ?)", list(stamps.items())


def _free(folder: Path) -> int:
    """Bytes that anybody may still use there, as `df` has it; nothing without an inode to be had."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize if space.f_favail or not space.f_files else 0


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """SQLITE_CORRUPT and SQLITE_NOTADB; a full disk, a lock or a missing right are OperationalErrors of other words."""
    words = str(error)
    return "malformed" in words or "not a database" in words or "no such table" in words or "no such column" in words
