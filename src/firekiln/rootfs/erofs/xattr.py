"""Extended attributes as EROFS stores them, inline after the inode or shared in an area of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct

from firekiln.errors import RootfsError
from firekiln.rootfs.erofs.layout import XATTR_ENTRY, XATTR_HEADER, XATTR_PREFIXES, round_up

MAX_NAME = 255  # XATTR_NAME_MAX of include/uapi/linux/limits.h
MAX_VALUE = 65535  # e_value_size has 16 bits
MAX_BODY = XATTR_HEADER.size + 4 * (65535 - 1)  # i_xattr_icount has 16 bits

Pair = tuple[bytes, bytes]

_SHARED_ID = Struct("<I")


def body_size(icount: int) -> int:
    """Bytes between an inode and what follows it, from i_xattr_icount."""
    return XATTR_HEADER.size + 4 * (icount - 1) if icount else 0


def icount(body: bytes) -> int:
    """i_xattr_icount for a body made by `pack`."""
    return (len(body) - XATTR_HEADER.size) // 4 + 1 if body else 0


def pack(xattrs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The body after an inode, empty without xattrs. RootfsError (without a path) where the format has no room."""
    parts = [_entry(name, value) for name, value in sorted(xattrs)]
    if not parts:
        return b""
    body = XATTR_HEADER.pack(0, 0) + b"".join(parts)
    if len(body) > MAX_BODY:
        raise RootfsError(f"its extended attributes take {len(body)} bytes, EROFS holds {MAX_BODY}")
    return body


def _entry(name: bytes, value: bytes) -> bytes:
    index, suffix = _split(name)
    if len(name) > MAX_NAME or len(value) > MAX_VALUE:
        sizes = f"{len(name)} bytes of name, {len(value)} of value"
        raise RootfsError(f"extended attribute {_shown(name)} is too long for EROFS ({sizes})")
    data = XATTR_ENTRY.pack(len(suffix), index, len(value)) + suffix + value
    return data.ljust(round_up(len(data), 4), b"\0")


def _split(name: bytes) -> tuple[int, bytes]:
    """e_name_index, and what of the name is stored."""
    for index, prefix in XATTR_PREFIXES.items():
        # A prefix that ends with a dot wants more after it; the others are whole names.
        if name.startswith(prefix) and prefix.endswith(b".") != (name == prefix):
            return index, name[len(prefix) :]
    raise RootfsError(f"EROFS cannot hold an extended attribute named {_shown(name)}")


def _shown(name: bytes) -> str:
    return repr(name.decode(errors="backslashreplace"))


def unpack(body: bytes, shared: Callable[[int], Pair]) -> tuple[Pair, ...]:
    """The xattrs of an inode, sorted; `shared` finds one by its number. ValueError on a broken body."""
    if len(body) < XATTR_HEADER.size:
        return ()
    _, count = XATTR_HEADER.unpack_from(body)
    position = XATTR_HEADER.size + 4 * count
    if position > len(body):
        raise ValueError("too many shared extended attributes")
    found = [shared(number) for (number,) in _SHARED_ID.iter_unpack(body[XATTR_HEADER.size : position])]
    while position + XATTR_ENTRY.size <= len(body):
        pair, position = read_entry(memoryview(body), position)
        found.append(pair)
    return tuple(sorted(found))


def read_entry(data: memoryview, position: int) -> tuple[Pair, int]:
    """The xattr at `position`, and where the next one would stand. ValueError outside of `data`."""
    head = data[position : position + XATTR_ENTRY.size]
    if len(head) < XATTR_ENTRY.size:
        raise ValueError("an extended attribute lies outside the image")
    name_length, index, value_length = XATTR_ENTRY.unpack(head)
    middle = position + XATTR_ENTRY.size + name_length
    end = middle + value_length
    if index not in XATTR_PREFIXES or end > len(data):
        raise ValueError("a broken extended attribute")
    name = XATTR_PREFIXES[index] + bytes(data[position + XATTR_ENTRY.size : middle])
    return (name, bytes(data[middle:end])), round_up(end, 4)
