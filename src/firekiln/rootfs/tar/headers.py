"""The 512-byte headers of tar and what stands before them, walked over a mapping of the archive.

Sources: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual, "Basic Tar Format"
and "Storing Sparse Files"; Go's archive/tar where these leave a choice, since container images are read by it.
"""

from __future__ import annotations

import mmap
import zlib
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

from firekiln.errors import RootfsError

BLOCK: Final = 512
MAX_SPECIAL: Final = 1 << 20
"""Bytes of one extended header or long name: Go's maxSpecialFileSize."""
_MAX_RUNS: Final = 1 << 20
_WINDOW: Final = 8 << 20

REGULAR: Final = frozenset(b"0\x007")
LINK: Final = ord("1")
SYMLINK: Final = ord("2")
CHARACTER: Final = ord("3")
BLOCK_DEVICE: Final = ord("4")
DIRECTORY: Final = ord("5")
FIFO: Final = ord("6")
GNU_SPARSE: Final = ord("S")
_XATTR: Final = b"SCHILY.xattr."
_LIBARCHIVE_XATTR: Final = b"LIBARCHIVE.xattr."
_OF_ONE_MEMBER: Final = frozenset({b"path", b"linkpath", b"size"})
_GENERAL: Final = frozenset({b"uid", b"gid", b"mtime"})
_HEADER_ONLY: Final = frozenset(b"123456")
"""Types without data, whatever size the header names: Go's isHeaderOnly."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One member. `data` is the offset of its content in the archive and `stored` its bytes there; `size` is the
    file's, and `runs` (starts and lengths of what is stored) is None unless the file is sparse.
    """

    path: bytes
    type: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    link: bytes
    major: int
    minor: int
    data: int
    stored: int
    size: int
    runs: list[tuple[int, int]] | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class FormatError(Exception):
    """The archive is malformed; `entries` knows where."""


Archive: TypeAlias = mmap.mmap | bytes


def begins_archive(head: bytes) -> bool:
    """Whether an archive's first member may begin with these 512 bytes."""
    try:
        return _Walker(head).header(0) is not None
    except (FormatError, ValueError):
        return False


def entries(archive: Archive, name: str) -> Iterator[Entry]:
    """The members in order. RootfsError with `name` and the offset where the archive is malformed or cut off."""
    position = released = 0
    walker = _Walker(archive)
    while True:
        if position - released >= _WINDOW and isinstance(archive, mmap.mmap):
            # One page of each header would stay mapped: hundreds of megabytes that count as this process's memory.
            archive.madvise(mmap.MADV_DONTNEED, 0, position // mmap.PAGESIZE * mmap.PAGESIZE)
            released = position
        try:
            found = walker.next(position)
        except (FormatError, ValueError, OverflowError) as error:
            raise RootfsError(f"{name}: the tar archive is malformed at byte {position} ({error})") from None
        if found is None:
            return
        entry, position = found
        yield entry


@dataclass(slots=True)
class _Before:
    """What special members said of the one that follows them."""

    pax: dict[bytes, bytes]
    name: bytes | None = None
    link: bytes | None = None

    def take(self, kind: int, body: bytes) -> None:
        match kind:
            case 0x4C:  # L
                self.name = _text(body)
            case 0x4B:  # K
                self.link = _text(body)
            case _:
                self.pax.update(_records(body))


class _Walker:
    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._size = len(archive)
        self._global: dict[bytes, bytes] = {}

    def next(self, position: int) -> tuple[Entry, int] | None:
        """The next member and where the header after it stands; None at the end."""
        before = _Before(dict(self._global))
        while True:
            header = self.header(position)
            if header is None:
                return None
            kind = header[156]
            if kind not in b"xgLKX":
                break
            size = _number(header[124:136])
            if size > MAX_SPECIAL:
                raise FormatError(f"an extended header of {size} bytes")
            body = self._bytes(position + BLOCK, size)
            if kind in b"g":
                self._global.update(_general(body))
            before.take(kind, body)
            position += BLOCK + _padded(size)
        entry = _entry(header, position + BLOCK, before)
        if entry.data + entry.stored > self._size:
            raise FormatError("it is cut off")
        end = entry.data + _padded(entry.stored)
        return self._sparse(entry, header, before.pax, end)

    def header(self, position: int) -> bytes | None:
        """The header at `position`; None where the archive ends."""
        header = self._archive[position : position + BLOCK]
        if len(header) < BLOCK:
            if header.strip(b"\0"):
                raise FormatError("it is cut off")
            return None
        expected = header[148:156]
        # adler32 holds 1 and the sum of all bytes modulo 65521 in its lower half: the fastest sum there is.
        total = (zlib.adler32(header) & 0xFFFF) - 1 - sum(expected) + 8 * 0x20
        if expected.count(0) == 8 and not header.strip(b"\0"):
            if self._archive[position + BLOCK : position + 2 * BLOCK].strip(b"\0"):
                raise FormatError("a lone block of zeros, after which others would end or go on")
            return None
        if (total - _number(expected)) % 65521:
            raise FormatError("wrong checksum; is it a tar archive?")
        return header

    def _bytes(self, offset: int, size: int) -> bytes:
        data = self._archive[offset : offset + size]
        if len(data) < size:
            raise FormatError("it is cut off")
        return data

    def _sparse(self, entry: Entry, header: bytes, pax: dict[bytes, bytes], end: int) -> tuple[Entry, int]:
        """The runs of a sparse file, in whichever of GNU's four ways they are told."""
        if entry.type == GNU_SPARSE:
            runs, extra = self._old_map(header, entry.data)
            entry.runs, entry.size = runs, _number(header[483:495])
            entry.data += extra
            end += extra
            if entry.data + entry.stored > self._size:
                raise FormatError("it is cut off")
        elif pax.get(b"GNU.sparse.major") == b"1":
            runs, used = self._map_in_data(entry)
            entry.runs, entry.size = runs, _decimal(pax[b"GNU.sparse.realsize"])
            entry.data += used
            entry.stored -= used
        elif b"GNU.sparse.map" in pax:
            numbers = [_decimal(number) for number in pax[b"GNU.sparse.map"].split(b",") if number]
            entry.runs, entry.size = _pairs(numbers), _decimal(pax[b"GNU.sparse.size"])
        else:
            return entry, end
        entry.path = pax.get(b"GNU.sparse.name", entry.path)
        _check_runs(entry)
        return entry, end

    def _old_map(self, header: bytes, position: int) -> tuple[list[tuple[int, int]], int]:
        """The map of type `S`: four pairs in the header, 21 in each block that follows. Also the blocks' bytes."""
        runs: list[tuple[int, int]] = []
        pairs, more, extra = header[386:482], header[482], 0
        while True:
            for at in range(0, len(pairs), 24):
                if not pairs[at]:
                    break
                runs.append((_number(pairs[at : at + 12]), _number(pairs[at + 12 : at + 24])))
            if not more:
                return runs, extra
            block = self._bytes(position + extra, BLOCK)
            pairs, more, extra = block[:504], block[504], extra + BLOCK
            if len(runs) > _MAX_RUNS:
                raise FormatError("too many pieces in a sparse file")

    def _map_in_data(self, entry: Entry) -> tuple[list[tuple[int, int]], int]:
        """The map of pax format 1.0: decimal numbers, one a line, before the data, padded to a block."""
        numbers: list[int] = []
        wanted, position = 1, 0
        while len(numbers) < wanted:
            end = self._archive.find(b"\n", entry.data + position, entry.data + min(entry.stored, position + 32))
            if end < 0:
                raise FormatError("a broken map of a sparse file")
            numbers.append(_decimal(self._archive[entry.data + position : end]))
            position = end - entry.data + 1
            wanted = 1 + 2 * numbers[0]
            if numbers[0] > _MAX_RUNS:
                raise FormatError("too many pieces in a sparse file")
        used = _padded(position)
        if used > entry.stored:
            raise FormatError("a broken map of a sparse file")
        return _pairs(numbers[1:]), used


def _entry(header: bytes, data: int, before: _Before) -> Entry:
    path = _text(header[:100])
    kind = header[156]
    magic = header[257:265]
    major = minor = 0
    if magic.startswith(b"ustar"):
        if kind in b"34":
            major, minor = _number(header[329:337]), _number(header[337:345])
        if magic[5:6] == b"\0" and header[345]:
            path = _text(header[345:500]) + b"/" + path
    size = 0 if kind in _HEADER_ONLY else _number(header[124:136])
    entry = Entry(
        path=path,
        type=kind,
        mode=_number(header[100:108]) & 0o7777,
        uid=_number(header[108:116]),
        gid=_number(header[116:124]),
        mtime_ns=_number(header[136:148], negative=True) * 10**9,
        link=_text(header[157:257]) if kind in b"12" else b"",
        major=major,
        minor=minor,
        data=data,
        stored=size,
        size=size,
    )
    _apply(entry, before.pax)
    entry.path = before.name or entry.path
    entry.link = before.link or entry.link
    if kind == 0 and entry.path.endswith(b"/"):
        entry.type = DIRECTORY  # Unix V7 had no other way to say so
    return entry


def _apply(entry: Entry, pax: dict[bytes, bytes]) -> None:
    for key, value in pax.items():
        match key if value or key.startswith(_XATTR) else b"":  # an empty value leaves what the header says
            case b"path":
                entry.path = _no_nul(value)
            case b"linkpath":
                entry.link = _no_nul(value)
            case b"size":
                if entry.type not in _HEADER_ONLY:
                    entry.stored = entry.size = _decimal(value)
            case b"uid":
                entry.uid = _decimal(value)
            case b"gid":
                entry.gid = _decimal(value)
            case b"mtime":
                entry.mtime_ns = _nanoseconds(value)
            case _:
                _apply_xattr(entry, key, value)


def _apply_xattr(entry: Entry, key: bytes, value: bytes) -> None:
    if key.startswith(_XATTR):
        entry.xattrs[key[len(_XATTR) :]] = value
    elif key.startswith(_LIBARCHIVE_XATTR):  # bsdtar writes both
        name = unquote_to_bytes(key[len(_LIBARCHIVE_XATTR) :])
        entry.xattrs.setdefault(name, b64decode(value + b"=" * (-len(value) % 4)))


def _general(body: bytes) -> dict[bytes, bytes]:
    """A global header's records. FormatError for what can be said of one member only.

    POSIX lets a global header name paths, sizes and attributes for all members that follow. No archiver does, readers
    disagree over it (Go heeds no global header at all), and it would make a small archive a large Tree.
    """
    records = _records(body)
    for key in records:
        if key in _OF_ONE_MEMBER or key.startswith((_XATTR, _LIBARCHIVE_XATTR, b"GNU.sparse.")):
            raise FormatError(f"a global header with {key[:30].decode(errors='backslashreplace')!r}")
    return {key: value for key, value in records.items() if key in _GENERAL}


def _records(body: bytes) -> dict[bytes, bytes]:
    r"""`LENGTH KEY=VALUE\n` again and again; the length counts the whole record.

    GNU's sparse map 0.0 repeats two keys: they are gathered in the form of 0.1.
    """
    found: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    position = 0
    while position < len(body):
        blank = body.find(b" ", position, position + 20)
        if blank < 0:
            raise FormatError("a broken extended header")
        length = _decimal(body[position:blank])
        record = body[blank + 1 : position + length]
        key, equals, value = record[:-1].partition(b"=")
        if not key or not equals or record[-1:] != b"\n" or position + length > len(body):
            raise FormatError("a broken extended header")
        if key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:
            sparse.append(value)
        found[key] = value
        position += length
    if sparse:
        found[b"GNU.sparse.map"] = b",".join(sparse)
    return found


def _check_runs(entry: Entry) -> None:
    assert entry.runs is not None
    end = 0
    for start, length in entry.runs:
        if start < end:
            raise FormatError("pieces of a sparse file overlap")
        end = start + length
    if end > entry.size or sum(length for _, length in entry.runs) != entry.stored:
        raise FormatError("the size of a sparse file and its pieces disagree")


def _pairs(numbers: list[int]) -> list[tuple[int, int]]:
    if len(numbers) % 2:
        raise FormatError("a broken map of a sparse file")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _no_nul(value: bytes) -> bytes:
    if b"\0" in value:
        raise FormatError("a name with a zero byte")
    return value


def _number(raw: bytes, *, negative: bool = False) -> int:
    """Octal digits, or (first bit set, GNU) a big-endian two's complement number in the bits after it."""
    if raw[0] & 0x80:
        sign = 1 << (8 * len(raw) - 2)  # the bit after the mark
        value = int.from_bytes(raw, "big") & (2 * sign - 1)
        value -= 2 * (value & sign)
    else:
        digits = raw.strip(b" \0").partition(b"\0")[0].strip(b" ")
        if digits and not digits.lstrip(b"-").isdigit():
            raise FormatError(f"{digits!r} is no number")  # int() would take more than tar does
        value = int(digits, 8) if digits else 0
    if (value < 0 and not negative) or value >= 1 << 63:
        raise FormatError(f"the number {value} is out of range")
    return value


def _decimal(raw: bytes) -> int:
    if not raw.isdigit() or len(raw) > 19 or (value := int(raw)) >= 1 << 63:
        raise FormatError(f"{raw[:30]!r} is no number in range")
    return value


def _nanoseconds(raw: bytes) -> int:
    """`-1234.567`: exact, digits beyond nanoseconds cut off (towards the past, as a clock counts)."""
    whole, _, fraction = raw.strip().partition(b".")
    sign = -1 if whole.startswith(b"-") else 1
    seconds = _decimal(whole.lstrip(b"+-") or b"0")
    digits = _decimal(fraction[:9].ljust(9, b"0"))
    return sign * (seconds * 10**9 + digits)
