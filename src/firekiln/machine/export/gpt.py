"""GUID partition tables, as in the UEFI specification, chapter 5 ("GUID Partition Table (GPT) Disk Layout")."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Sequence
from typing import Final

from firekiln.values import dataclass

SECTOR: Final = 512
ALIGNMENT: Final = 1 << 20
"""Where partitions begin: what every kind of disk likes."""
BACKUP_SECTORS: Final = 33
"""At the end of a disk: the entries again, and the header."""

BIOS_BOOT: Final = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
EFI_SYSTEM: Final = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
LINUX_ROOT_X86_64: Final = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
"""Of the Discoverable Partitions Specification (uapi-group.org)."""

_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_ENTRIES: Final = 128
_HEADER: Final = struct.Struct("<8s4sII4xQQQQ16sQIII")
_CRC_OFFSET: Final = 16
_MBR_ENTRY: Final = struct.Struct("<B3sB3sII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """`start` and `size` in bytes, multiples of SECTOR; a name has at most 36 characters."""

    kind: uuid.UUID
    id: uuid.UUID
    name: str
    start: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """`first`: sectors 0 to 33, the boot code of sector 0 left empty. `last`: the disk's last BACKUP_SECTORS."""

    first: bytes
    last: bytes


def tables(partitions: Sequence[Partition], *, disk: uuid.UUID, size: int) -> Tables:
    """The tables of a disk of `size` bytes whose own GUID is `disk`."""
    last = size // SECTOR - 1
    entries = b"".join(map(_entry, partitions)).ljust(_ENTRIES * _ENTRY.size, b"\0")
    primary = _header(entries, disk, here=1, other=last, table=2)
    backup = _header(entries, disk, here=last, other=1, table=last - BACKUP_SECTORS + 1)
    return Tables(first=_protective_mbr(last) + primary + entries, last=entries + backup)


def _entry(partition: Partition) -> bytes:
    first = partition.start // SECTOR
    last = first + partition.size // SECTOR - 1
    return _ENTRY.pack(
        partition.kind.bytes_le, partition.id.bytes_le, first, last, 0, partition.name.encode("utf-16-le")
    )  # fmt: skip


def _header(entries: bytes, disk: uuid.UUID, *, here: int, other: int, table: int) -> bytes:
    first, last = 1 + BACKUP_SECTORS, max(here, other) - BACKUP_SECTORS - 1
    header = bytearray(
        _HEADER.pack(
            *(b"EFI PART", b"\0\0\1\0", 92, 0, here, other, first, last),
            *(disk.bytes_le, table, _ENTRIES, _ENTRY.size, zlib.crc32(entries)),
        )
    )
    struct.pack_into("<I", header, _CRC_OFFSET, zlib.crc32(header))
    return bytes(header).ljust(SECTOR, b"\0")


def _protective_mbr(last: int) -> bytes:
    """One partition over everything, for those who know no GPT."""
    length = min(last, 0xFFFFFFFF)
    entry = _MBR_ENTRY.pack(0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, length)
    return entry.rjust(446 + len(entry), b"\0").ljust(SECTOR - 2, b"\0") + b"\x55\xaa"
