"""The index: what build steps resulted in, and facts about layers. SQLite in WAL mode.

All of it can be had again from the blobs or by building again, so that a damaged index costs work and never data: it
is set aside as `index.db.damaged` and a new one begun. It is opened when it is first asked.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from firekiln.errors import StoreError

_T = TypeVar("_T")

_SCHEMA_VERSION = 1
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
"""
_TOUCH_AFTER = 3600
"""`used` is exact to this many seconds, so that most builds that find everything write nothing."""

_BUSY_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a build step resulted in: its snapshot's layers (digests, lowest first) and when it ran (RFC 3339).

    `chain` identifies the step and its history; keys of steps that stand on this one are made of it.
    """

    chain: str
    layers: tuple[str, ...]
    created: str


class Index:
    """One store's index. Safe to use from several threads and several processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.RLock()
        self._connection: sqlite3.Connection | None = None

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

    def record(self, results: Mapping[str, Result]) -> None:
        """Record results under their keys, all or none, in place of what stood there."""
        now = int(time.time())
        rows = [(key, item.chain, " ".join(item.layers), item.created, now) for key, item in results.items()]
        self._try(lambda db: _write(db, "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", rows))

    def touch(self, keys: Iterable[str]) -> None:
        """Note that these results were used now."""
        now = int(time.time())
        wanted = list(keys)

        def stale(db: sqlite3.Connection) -> list[str]:
            marks = ",".join("?" * len(wanted))
            query = f"SELECT key FROM results WHERE used < ? AND key IN ({marks})"  # noqa: S608 - question marks only
            return [row[0] for row in db.execute(query, (now - _TOUCH_AFTER, *wanted))]

        if rows := [(now, key) for key in self._try(stale)]:
            self._try(lambda db: _write(db, "UPDATE results SET used = ? WHERE key = ?", rows))

    def forget(self, *, used_before: float) -> int:
        """Drop results that were last used before that time (seconds since the epoch); how many were dropped."""
        return self._try(lambda db: _write(db, "DELETE FROM results WHERE used < ?", [(int(used_before),)]))

    def layers_of_results(self) -> set[str]:
        """The digests of all layers that a result names."""
        rows = self._try(lambda db: db.execute("SELECT DISTINCT layers FROM results").fetchall())
        return {digest for row in rows for digest in row[0].split()}

    def diff_id(self, layer: str) -> str | None:
        row = self._try(lambda db: db.execute("SELECT diff_id FROM diff_ids WHERE layer = ?", (layer,)).fetchone())
        return str(row[0]) if row else None

    def record_diff_id(self, layer: str, diff_id: str) -> None:
        self._try(lambda db: _write(db, "INSERT OR REPLACE INTO diff_ids VALUES (?, ?)", [(layer, diff_id)]))

    def _try(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        """Carry out `action`; where the index proves damaged, begin a new one and try once more."""
        with self._guard:
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
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _set_aside(self) -> None:
        self.close()
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").unlink()
        with suppress(FileNotFoundError):
            os.replace(self._path, f"{self._path}.damaged")  # noqa: PTH105 - beside the -wal and -shm above

    def _error(self, error: sqlite3.DatabaseError) -> StoreError:
        if "full" in str(error):
            return StoreError(
                f"cannot write {self._path}: no space left on device",
                hint="free some space, or put the store elsewhere with --root DIR or FIREKILN_ROOT",
            )
        return StoreError(f"cannot use the index {self._path}: {error}")


def _prepare(connection: sqlite3.Connection) -> None:
    """Create what a new index lacks; an index of another version counts as damaged: nothing in it is irreplaceable."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute("PRAGMA synchronous = FULL")
    if version == _SCHEMA_VERSION:
        return
    if version != 0:
        raise sqlite3.DatabaseError("malformed: another version of the schema")
    connection.execute("PRAGMA journal_mode = WAL")
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


def _write(connection: sqlite3.Connection, statement: str, rows: Iterable[tuple[object, ...]]) -> int:
    connection.execute("BEGIN IMMEDIATE")
    try:
        count = connection.executemany(statement, rows).rowcount
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return count


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """SQLITE_CORRUPT and SQLITE_NOTADB; a full disk, a lock or a missing right are OperationalErrors of other words."""
    words = str(error)
    return "malformed" in words or "not a database" in words or "no such table" in words or "no such column" in words
