"""rpm's database in SQLite, `rpmdb.sqlite`: a table Packages(hnum, blob), each blob a package's header.

The header (rpm, docs/manual/format_header.md; in the database without its magic): the number of index entries and the
bytes of data, both 32 bits and big-endian; the entries, tag, type, offset and count, 32 bits each; the data.

The database may be anybody's: SQLite opens a copy in memory that may only be read, no view or virtual table is asked,
and it may take so many steps and no more.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from firekiln.build.sbom.package import Package, UnreadError, line

LARGEST: Final = 512 << 20
"""Bytes of a database; that of a whole Fedora workstation has 100 MB."""
_LARGEST_HEADER: Final = 64 << 20
_MOST_ENTRIES: Final = 0xFFFF
_STEPS: Final = 50_000_000
"""Of SQLite's virtual machine: reading 10,000 packages takes 200,000."""
_JOURNAL_MODES: Final = slice(18, 20)
"""Of an SQLite file: 2 says that it is used with a write-ahead log, which one in memory cannot have; 1 is without."""

_NAME, _VERSION, _RELEASE, _EPOCH, _SUMMARY = 1000, 1001, 1002, 1003, 1004
_VENDOR, _LICENSE, _URL, _ARCH, _SOURCERPM = 1011, 1014, 1020, 1022, 1044
_INT32, _STRING, _I18NSTRING = 4, 6, 9
_KEYS: Final = "gpg-pubkey"
"""No package: the keys that signatures are held to stand in the same table."""


def packages(database: bytes, *, where: str) -> Iterator[Package]:
    """Those of the database. UnreadError where it is none, or malformed."""
    try:
        with closing(_opened(database)) as connection:
            for (blob,) in connection.execute("SELECT blob FROM Packages ORDER BY hnum"):
                found = _package(blob, where) if isinstance(blob, bytes) else None
                if found is not None:
                    yield found
    except (sqlite3.Error, sqlite3.Warning, struct.error, ValueError, IndexError) as error:
        raise UnreadError(f"{where}: no database of rpm's, or a damaged one: {error}") from error


def _opened(database: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        plain = bytearray(database)
        plain[_JOURNAL_MODES] = b"\x01\x01"
        connection.deserialize(bytes(plain))
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_HEADER)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA query_only = ON")
        connection.set_progress_handler(lambda: 1, _STEPS)
        _check_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_schema(connection: sqlite3.Connection) -> None:
    """ValueError unless packages stand in a table, rather than in a view or a virtual table, which are programs."""
    row = connection.execute("SELECT type, sql FROM sqlite_schema WHERE name = 'Packages'").fetchone()
    if row is None or row[0] != "table" or not str(row[1]).upper().startswith("CREATE TABLE"):
        raise ValueError("it has no table of packages")


def _package(blob: bytes, where: str) -> Package | None:
    fields = _header(blob)
    name, version = fields.get(_NAME, ""), fields.get(_VERSION, "")
    if not name or not version or name == _KEYS:
        return None
    release = fields.get(_RELEASE, "")
    return Package(
        kind="rpm",
        name=name,
        version=f"{version}-{release}" if release else version,
        where=where,
        architecture=fields.get(_ARCH, ""),
        epoch=fields.get(_EPOCH, ""),
        source=fields.get(_SOURCERPM, ""),
        licence=fields.get(_LICENSE, ""),
        supplier=fields.get(_VENDOR, ""),
        homepage=fields.get(_URL, ""),
        summary=fields.get(_SUMMARY, ""),
    )


def _header(blob: bytes) -> dict[int, str]:
    """The first value of each tag that we ask for, as text. struct.error, ValueError or IndexError."""
    count, length = struct.unpack_from(">II", blob)
    if count > _MOST_ENTRIES or 8 + 16 * count + length > len(blob):
        raise ValueError("a header's lengths are not its own")
    data = blob[8 + 16 * count :][:length]
    found: dict[int, str] = {}
    for tag, kind, offset, _ in struct.iter_unpack(">IIII", blob[8 : 8 + 16 * count]):
        if tag not in _TAGS:
            continue
        if kind in {_STRING, _I18NSTRING}:
            found[tag] = line(data[offset : data.index(b"\0", offset)].decode(errors="replace"))
        elif kind == _INT32:
            found[tag] = str(struct.unpack_from(">I", data, offset)[0])
    return found


_TAGS: Final = frozenset({_NAME, _VERSION, _RELEASE, _EPOCH, _SUMMARY, _VENDOR, _LICENSE, _URL, _ARCH, _SOURCERPM})
