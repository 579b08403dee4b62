"""Extended attributes as ext4 stores them: in what an inode has left, in one block more, and values that have no room
there in inodes of their own (feature ea_inode, Linux 4.13).

Source: Linux, `fs/ext4/xattr.h`, `xattr.c`, `acl.h`. POSIX ACLs have a form of their own on the disk, shorter than the
one that getxattr(2) gives and a Tree holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from struct import Struct
from typing import Final

from firekiln.errors import RootfsError
from firekiln.rootfs.ext4.layout import BLOCK, INLINE_XATTRS, INODE_SIZE, Checksum
from firekiln.rootfs.inodes import shown

MAX_SHARED: Final = 1024
"""How many inodes may share one block (EXT4_XATTR_REFCOUNT_MAX)."""
HEADER: Final = Struct("<IIIII12x")
"""`struct ext4_xattr_header` of a block: magic, refcount, blocks, hash, checksum. An inode has only the first."""
ENTRY: Final = Struct("<BBHIII")
"""`struct ext4_xattr_entry`: e_name_len, e_name_index, e_value_offs, e_value_inum, e_value_size, e_hash."""
MAGIC: Final = 0xEA020000
_PREFIXES: Final = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
    7: b"system.",
}
_ACLS: Final = (2, 3)
_NOT_STORED: Final = {b"system.data", b"system.richacl"}
"""Names that mean something else to ext4."""
_MAX_NAME = 255
_MAX_VALUE = 65536  # XATTR_SIZE_MAX
_INLINE_ROOM = INODE_SIZE - INLINE_XATTRS - 4
_BLOCK_ROOM = BLOCK - HEADER.size
_CHECKSUM_AT = 16
_U32 = Struct("<I")

_ACL_HEADER = Struct("<I")
_ACL_XATTR_ENTRY = Struct("<HHI")
_ACL_SHORT = Struct("<HH")
_ACL_XATTR_VERSION, _ACL_EXT4_VERSION = 2, 1
_ACL_WITH_ID, _ACL_WITHOUT_ID = {0x02, 0x08}, {0x01, 0x04, 0x10, 0x20}
_ACL_NO_ID = 0xFFFFFFFF

Xattrs = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """`inline` goes into the inode, `block` (empty, or BLOCK bytes without place and checksum) elsewhere.

    `values` go to inodes of their own; each comes with the offset of its entry in `block`.
    """

    inline: bytes = b""
    block: bytes = b""
    values: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class _Attribute:
    """`apart`: its value has an inode of its own."""

    index: int
    suffix: bytes
    value: bytes
    apart: bool = False

    @property
    def room(self) -> int:
        return ENTRY.size + _padded(len(self.suffix)) + (0 if self.apart else _padded(len(self.value)))

    @property
    def order(self) -> tuple[int, int, bytes]:
        """In a block the kernel's search ends early by it."""
        return self.index, len(self.suffix), self.suffix


def pack(xattrs: Xattrs) -> Packed:
    """RootfsError (without a path) where there is no room, no name for it, or no such ACL."""
    inline: list[_Attribute] = []
    outside: list[_Attribute] = []
    room = _INLINE_ROOM - 4  # four zeros end the entries
    for attribute in sorted((_attribute(name, value) for name, value in xattrs), key=lambda found: found.order):
        if attribute.room <= room:
            room -= attribute.room
            inline.append(attribute)
        else:
            outside.append(attribute)
    outside = _fitting(outside)
    return Packed(
        inline=_U32.pack(MAGIC) + _area(inline, _INLINE_ROOM, 0, hashed=False) if inline else b"",
        block=_block(outside) if outside else b"",
        values=tuple(_apart(outside)),
    )


def _fitting(attributes: list[_Attribute]) -> list[_Attribute]:
    """The same in a block's room: as many of the largest values as need be set apart."""
    excess = sum(attribute.room for attribute in attributes) + 4 - _BLOCK_ROOM
    apart: set[_Attribute] = set()
    for attribute in sorted(attributes, key=lambda found: (-len(found.value), found.order)):
        if excess <= 0:
            break
        apart.add(attribute)
        excess -= _padded(len(attribute.value))
    if excess > 0:
        raise RootfsError(f"{len(attributes)} extended attributes; ext4 has no room for {excess} bytes of their names")
    return [replace(attribute, apart=True) if attribute in apart else attribute for attribute in attributes]


def _apart(attributes: list[_Attribute]) -> Iterator[tuple[int, bytes]]:
    at = HEADER.size
    for attribute in attributes:
        if attribute.apart:
            yield at, attribute.value
        at += ENTRY.size + _padded(len(attribute.suffix))


def _attribute(name: bytes, value: bytes) -> _Attribute:
    if len(value) > _MAX_VALUE:
        raise RootfsError(f"extended attribute {shown(name)!r} of {len(value)} bytes; the kernel takes {_MAX_VALUE}")
    for index, prefix in _PREFIXES.items():
        if index in _ACLS:
            if name == prefix:
                return _Attribute(index, b"", acl_to_disk(value))
        elif name.startswith(prefix) and len(prefix) < len(name) <= _MAX_NAME and name not in _NOT_STORED:
            return _Attribute(index, name[len(prefix) :], value)
    raise RootfsError(f"ext4 cannot hold an extended attribute named {shown(name)!r}")


def _area(attributes: list[_Attribute], size: int, base: int, *, hashed: bool) -> bytes:
    """Entries from the front, values from the end; `base` is what value offsets count besides."""
    area = bytearray(size)
    at, end = 0, size
    for attribute in attributes:
        size = len(attribute.value)
        value = b"" if attribute.apart else attribute.value
        end -= _padded(len(value))
        area[end : end + len(value)] = value
        offset = base + end if value else 0
        entry_hash = _entry_hash(attribute.suffix, value) if hashed else 0
        ENTRY.pack_into(area, at, len(attribute.suffix), attribute.index, offset, 0, size, entry_hash)
        at += ENTRY.size
        area[at : at + len(attribute.suffix)] = attribute.suffix
        at += _padded(len(attribute.suffix))
    return bytes(area)


def _block(attributes: list[_Attribute]) -> bytes:
    return HEADER.pack(MAGIC, 1, 1, 0, 0) + _area(attributes, _BLOCK_ROOM, HEADER.size, hashed=True)


def _entry_hash(suffix: bytes, value: bytes) -> int:
    """e_hash. Of a value in an inode of its own, that one's checksum counts in its place."""
    found = 0
    for byte in suffix:
        found = (found << 5 | found >> 27) & 0xFFFFFFFF ^ byte
    for (word,) in _U32.iter_unpack(value.ljust(_padded(len(value)), b"\0")):
        found = (found << 16 | found >> 16) & 0xFFFFFFFF ^ word
    return found


def finish_block(
    packed: Packed, place: int, users: int, checksum: Checksum, number_of: Callable[[bytes], int]
) -> bytes:
    """A block of `pack` as it is written at block `place` for `users` inodes; `number_of` knows the values' inodes."""
    data = bytearray(packed.block)
    for at, value in packed.values:
        length, index, _, _, size, _ = ENTRY.unpack_from(data, at)
        suffix = bytes(data[at + ENTRY.size : at + ENTRY.size + length])
        entry_hash = _entry_hash(suffix, _U32.pack(checksum.of(value)))
        ENTRY.pack_into(data, at, length, index, 0, number_of(value), size, entry_hash)
    HEADER.pack_into(data, 0, MAGIC, users, 1, _block_hash(data), 0)
    _U32.pack_into(data, _CHECKSUM_AT, checksum.of(bytes(data), prefix=place.to_bytes(8, "little")))
    return bytes(data)


def _block_hash(block: bytearray) -> int:
    found, at = 0, HEADER.size
    while any(block[at : at + 4]):
        length, *_, entry_hash = ENTRY.unpack_from(block, at)
        found = (found << 16 | found >> 16) & 0xFFFFFFFF ^ entry_hash
        at += ENTRY.size + _padded(length)
    return found


ValueOf = Callable[[int, int], bytes]
"""Reads a value that lies elsewhere, given the inode that holds it and its size."""


def unpack_inline(rest: bytes, value_of: ValueOf) -> Xattrs:
    """The xattrs that stand in an inode; `rest` is what follows i_extra_isize. ValueError, struct.error on damage."""
    if len(rest) <= 4 or _U32.unpack_from(rest)[0] != MAGIC:
        return ()
    return tuple(_read_area(rest, 4, 4, value_of))


def unpack_block(block: bytes, value_of: ValueOf) -> Xattrs:
    """The xattrs that stand in a block. ValueError, struct.error on damage."""
    if HEADER.unpack_from(block)[0] != MAGIC:
        raise ValueError("a broken block of extended attributes")
    return tuple(_read_area(block, HEADER.size, 0, value_of))


def _read_area(data: bytes, at: int, base: int, value_of: ValueOf) -> Iterator[tuple[bytes, bytes]]:
    room = len(data)
    while at + 4 <= len(data) and data[at : at + 4] != b"\0\0\0\0":
        name_length, index, offset, inode, size, _ = ENTRY.unpack_from(data, at)
        suffix = data[at + ENTRY.size : at + ENTRY.size + name_length]
        value = value_of(inode, size) if inode else data[base + offset : base + offset + size]
        room -= 0 if inode else size
        if index not in _PREFIXES or len(suffix) < name_length or len(value) < size or room < 0:
            raise ValueError("a broken extended attribute")
        at += ENTRY.size + _padded(name_length)
        yield _PREFIXES[index] + suffix, acl_from_disk(value) if index in _ACLS else value


def acl_to_disk(value: bytes) -> bytes:
    """RootfsError where `value` is no ACL in the form of getxattr(2)."""
    try:
        return _ACL_HEADER.pack(_ACL_EXT4_VERSION) + b"".join(_disk_entries(value))
    except ValueError:
        raise RootfsError("its POSIX ACL is malformed") from None


def _disk_entries(value: bytes) -> Iterable[bytes]:
    body = value[_ACL_HEADER.size :]
    if value[: _ACL_HEADER.size] != _ACL_HEADER.pack(_ACL_XATTR_VERSION) or len(body) % _ACL_XATTR_ENTRY.size:
        raise ValueError
    for tag, permissions, owner in _ACL_XATTR_ENTRY.iter_unpack(body):
        if tag in _ACL_WITH_ID:
            yield _ACL_XATTR_ENTRY.pack(tag, permissions, owner)
        elif tag in _ACL_WITHOUT_ID:
            yield _ACL_SHORT.pack(tag, permissions)
        else:
            raise ValueError


def acl_from_disk(value: bytes) -> bytes:
    """The form of getxattr(2). ValueError, struct.error where `value` is no ACL of ext4."""
    if value[: _ACL_HEADER.size] != _ACL_HEADER.pack(_ACL_EXT4_VERSION):
        raise ValueError("a broken ACL")
    entries = [_ACL_HEADER.pack(_ACL_XATTR_VERSION)]
    at = _ACL_HEADER.size
    while at < len(value):
        tag, permissions = _ACL_SHORT.unpack_from(value, at)
        owner = _ACL_NO_ID
        if tag in _ACL_WITH_ID:
            owner = _ACL_XATTR_ENTRY.unpack_from(value, at)[2]
        at += _ACL_XATTR_ENTRY.size if tag in _ACL_WITH_ID else _ACL_SHORT.size
        entries.append(_ACL_XATTR_ENTRY.pack(tag, permissions, owner))
    return b"".join(entries)


def _padded(length: int) -> int:
    return -(-length // 4) * 4
