"""Which machines there are: `<root>/machines/state.db` (SQLite) and a folder for each, `<root>/machines/<id>/`.

Whoever runs a machine holds a lock (flock(2)) on `lock` in its folder from the machine's first moment to its last. The
kernel lets go of it when its holder dies, so that a machine which is said to run, and whose lock is free, does not: it
is put down as ended when somebody next looks. That is true after any kill, and after a reboot.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from firekiln.errors import ConflictError, ContainerNotFoundError, StoreError
from firekiln.machine.names import check_name, random_name
from firekiln.machine.supervision import lastword
from firekiln.machine.supervision.live import read_live
from firekiln.machine.supervision.processes import is_stopped
from firekiln.store.durable import store_error, store_errors
from firekiln.store.wal import BUSY_SECONDS, switch_to_wal
from firekiln.values import dataclass

if TYPE_CHECKING:  # at run time it is imported where it is used: a supervisor needs no database while it waits
    import sqlite3

Status = Literal["created", "running", "paused", "restarting", "exited"]
RUNS: Final = ("running", "paused", "restarting")
"""The states of a machine that has a VMM, or is to have one soon."""

KILLED = 137
"""The exit status of a machine whose end nobody saw: as if by SIGKILL."""

_NAME_TRIALS = 20
_LEAST_SPACE = 1 << 20
"""Bytes: with less, a failure of SQLite's is put down to the full disk, whatever it calls it."""
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS machines (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    image        TEXT NOT NULL,
    image_digest TEXT NOT NULL,
    created_ns   INTEGER NOT NULL,
    status       TEXT NOT NULL,
    exit_status  INTEGER NOT NULL,
    error        TEXT NOT NULL,
    oom          INTEGER NOT NULL,
    started_ns   INTEGER NOT NULL,
    finished_ns  INTEGER NOT NULL,
    pid          INTEGER NOT NULL,
    settings     TEXT NOT NULL,
    config       TEXT NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One machine. Times are nanoseconds since the epoch, 0 where they have not come; `pid` is the VMM's.

    `settings` is a `Settings`, `config` Docker's inner config of the container, both as JSON.
    """

    id: str
    name: str
    image: str
    image_digest: str
    created_ns: int
    settings: str
    config: str
    status: Status = "created"
    exit_status: int = 0
    error: str = ""
    oom: bool = False
    started_ns: int = 0
    finished_ns: int = 0
    pid: int = 0


class MachineLock:
    """The right to run a machine. `fd` may be handed to a child process, which then holds the same lock."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class State:
    """The machines of one store. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def folder_of(self, machine_id: str) -> Path:
        return self.folder / machine_id

    def create(self, record: Record) -> tuple[Record, MachineLock]:
        """Add a machine, its folder and its lock; an empty name is replaced by a random one. ConflictError if taken."""
        import shutil  # noqa: PLC0415 - see above

        folder = self.folder_of(record.id)
        with store_errors(folder, "cannot make"):
            folder.mkdir(mode=0o700)
            lock = MachineLock(os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self._insert_named(record), lock
        except BaseException:
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def lock(self, machine_id: str) -> MachineLock | None:
        """The right to run a machine that is there; None where somebody has it."""
        path = self.folder_of(machine_id) / "lock"
        with store_errors(path, "cannot open"):
            lock = MachineLock(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        try:
            fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.release()
            return None
        return lock

    def rename(self, machine_id: str, name: str) -> None:
        """Give a machine another name. ConflictError where it is taken."""
        import sqlite3  # noqa: PLC0415 - see above

        check_name(name)
        with self._database() as database:
            try:
                database.execute("UPDATE machines SET name = ? WHERE id = ?", (name, machine_id))
            except sqlite3.IntegrityError as error:
                raise _name_taken(name) from error

    def update(self, machine_id: str, **changes: Any) -> None:
        """Change some fields of a machine. A machine that is gone is no error: it was removed by force."""
        assignments = ", ".join(f"{name} = :{name}" for name in changes)
        with self._database() as database:
            database.execute(f"UPDATE machines SET {assignments} WHERE id = :id", {**changes, "id": machine_id})  # noqa: S608 - names of fields, from the code

    def get(self, word: str) -> Record:
        """The machine of that name, id or unambiguous beginning of an id, truthfully. ContainerNotFoundError."""
        rows = self._rows(
            "SELECT * FROM machines WHERE name = :word OR substr(id, 1, length(:word)) = :word "
            "ORDER BY name = :word OR id = :word DESC LIMIT 2",
            word=word,
        )
        records = [_record(row) for row in rows]
        if not records or not word:
            raise ContainerNotFoundError(f"No such container: {word}", hint="`firekiln ps -a` lists what is there")
        if len(records) > 1 and word not in (records[0].name, records[0].id):
            raise ContainerNotFoundError(f"{word} is the beginning of several ids", hint="give more of it, or the name")
        return self._true(records[0])

    def list(self) -> list[Record]:
        """All machines, the youngest first, truthfully."""
        rows = self._rows("SELECT * FROM machines ORDER BY created_ns DESC, id")
        return [self._true(_record(row)) for row in rows]

    def remove(self, machine_id: str) -> None:
        """Forget a machine and delete its folder. Idempotent. The caller has seen to it that it does not run."""
        import shutil  # noqa: PLC0415 - see above

        shutil.rmtree(self.folder_of(machine_id), ignore_errors=True)
        with self._database() as database:
            database.execute("DELETE FROM machines WHERE id = ?", (machine_id,))

    def is_alive(self, machine_id: str) -> bool:
        """Whether somebody holds the machine's lock."""
        try:
            fd = os.open(self.folder_of(machine_id) / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def wait_until_ended(self, machine_id: str) -> None:
        """Wait until nobody holds the machine's lock."""
        with suppress(FileNotFoundError):
            fd = os.open(self.folder_of(machine_id) / "lock", os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH)
            finally:
                os.close(fd)

    def _true(self, record: Record) -> Record:
        """As it is now: what runs is told by its supervisor, as long as that lives."""
        if record.status == "exited":
            return record
        live = read_live(self.folder_of(record.id))
        if live is not None:
            status = cast("Status", live.status)
            record = replace(record, status=status, started_ns=live.started_ns, pid=live.pid)
        if record.status == "created" or self.is_alive(record.id):
            stopped = record.status == "running" and is_stopped(record.pid)
            return replace(record, status="paused") if stopped else record
        # Asked again, since it may have ended in order between the reading of its row and that of its lock.
        changes: dict[str, Any] = {
            "status": "exited",
            "exit_status": KILLED,
            "error": "the machine's supervisor was killed",
            "started_ns": record.started_ns,
            "finished_ns": time.time_ns(),
            "pid": 0,
            **(lastword.found(self.folder_of(record.id)) or {}),
        }
        if not self.writable:
            return replace(record, **changes)
        try:
            with self._database() as database:
                assignments = ", ".join(f"{name} = :{name}" for name in changes)
                database.execute(
                    f"UPDATE machines SET {assignments} WHERE id = :id AND status != 'exited'",  # noqa: S608 - as above
                    {**changes, "id": record.id},
                )
                row = database.execute("SELECT * FROM machines WHERE id = ?", (record.id,)).fetchone()
        except StoreError:
            if not self._is_full():
                raise
            row = None  # it is put down when there is room
        return _record(row) if row else replace(record, **changes)

    def _rows(self, query: str, **values: str) -> Sequence[sqlite3.Row]:
        """What a query finds, also on a full disk, where SQLite cannot make the files that go with a database."""
        import sqlite3  # noqa: PLC0415 - see above

        try:
            with self._database() as database:
                return database.execute(query, values).fetchall()
        except StoreError:
            if not self._is_full():
                raise
            with closing(_unchanging(self.folder / "state.db")) as database:  # whoever had it open closed it in order
                database.row_factory = sqlite3.Row
                return database.execute(query, values).fetchall()

    def _insert_named(self, record: Record) -> Record:
        import sqlite3  # noqa: PLC0415 - see above

        if record.name:
            check_name(record.name)
        for _ in range(1 if record.name else _NAME_TRIALS):
            named = record if record.name else replace(record, name=random_name())
            with self._database() as database, suppress(sqlite3.IntegrityError):
                columns = [item.name for item in fields(Record)]
                database.execute(
                    f"INSERT INTO machines ({', '.join(columns)}) VALUES ({', '.join(':' + c for c in columns)})",  # noqa: S608 - as above
                    {column: getattr(named, column) for column in columns},
                )
                return named
        raise _name_taken(record.name)

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        import sqlite3  # noqa: PLC0415 - see above

        path = self.folder / "state.db"
        try:
            with closing(self._connect(path)) as database:
                database.row_factory = sqlite3.Row
                if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                    switch_to_wal(database)
                    database.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")
                with database:
                    yield database
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise self._failure(error, path) from error

    def _connect(self, path: Path) -> sqlite3.Connection:
        import sqlite3  # noqa: PLC0415 - see above

        if self.writable:
            return sqlite3.connect(path, timeout=BUSY_SECONDS)
        if not path.exists():
            return sqlite3.connect(":memory:")  # of a store that nobody ran anything on, and that is only read
        return _unchanging(path)  # no lock file can be made there

    @property
    def writable(self) -> bool:
        """Whether anything can be changed: not where the store is another user's, or lies on a read-only disk."""
        return os.access(self.folder, os.W_OK)

    def _failure(self, error: sqlite3.Error, path: Path) -> StoreError:
        """In the words of the store's other failures, as far as SQLite's tell which it is."""
        if not self.writable:
            return store_error(OSError(errno.EROFS, ""), path, "cannot write")
        if self._is_full():
            return store_error(OSError(errno.ENOSPC, ""), path, "cannot write")
        return StoreError(f"{path}: {error}", hint="the list of machines is damaged, or another process keeps it")

    def _is_full(self) -> bool:
        import shutil  # noqa: PLC0415 - see above

        with store_errors(self.folder, "cannot write to"):
            return shutil.disk_usage(self.folder).free < _LEAST_SPACE


def _unchanging(path: Path) -> sqlite3.Connection:
    """A database that is only read, and that nobody changes meanwhile."""
    import sqlite3  # noqa: PLC0415 - see above

    return sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)


def _name_taken(name: str) -> ConflictError:
    return ConflictError(f'The container name "/{name}" is already in use', hint=f"firekiln rm {name}, or another name")


def _record(row: sqlite3.Row) -> Record:
    values = {key: row[key] for key in row.keys()}  # noqa: SIM118 - a Row iterates over its values
    return Record(**{**values, "status": cast("Status", values["status"]), "oom": bool(values["oom"])})
