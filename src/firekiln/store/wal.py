"""SQLite's write-ahead log (https://sqlite.org/wal.html), in which readers don't wait for a writer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

BUSY_SECONDS = 30.0
"""How long a database of ours is waited for while another process or thread writes to it."""
_PAUSE = 0.005


def switch_to_wal(connection: sqlite3.Connection) -> None:
    """Put a database into WAL mode, where it stays. sqlite3.OperationalError if others are in it all the time.

    SQLite does not wait here as it does elsewhere: two that both read, and both want to switch, would do so for ever.
    """
    import sqlite3  # noqa: PLC0415 - who runs machines without a store's index imports it late

    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return
