"""Blocks of directories: entries in one block, or in blocks ordered by hash beneath an index ("htree").

    block 0          the index's root; an older kernel reads it as a block with `.` and `..` only
    block 1 …        the index's nodes, where the root has no room for all leaves; they read as empty blocks
    then             leaves: entries whose hashes lie between those of the index

Source: Linux, `fs/ext4/namei.c`; `Documentation/filesystems/ext4/directory.rst`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final

from firekiln.errors import RootfsError
from firekiln.rootfs.ext4.dirhash import HALF_MD4, half_md4
from firekiln.rootfs.ext4.layout import BLOCK, DIRECTORY_ROOM, DIRENT, continued
from firekiln.values import dataclass

Entry = tuple[bytes, int, int]
"""Name, inode number, file type."""

_DIRECTORY_TYPE: Final = 2
_TAIL: Final = Struct("<IHBBI")
"""`struct ext4_dir_entry_tail`: zeros, its length, zero, a file type that no kernel knows, checksum."""
_TAIL_TYPE: Final = 0xDE
_DOTS: Final = 24
_ROOT_INFO: Final = Struct("<IBBBB")
"""`struct dx_root_info`: reserved_zero, hash_version, info_length, indirect_levels, unused_flags."""
_LIMIT: Final = Struct("<HHI")
"""`struct dx_countlimit`, and the block of the first entry, which stands for all hashes below the second's."""
_INDEX_ENTRY: Final = Struct("<II")
_INDEX_TAIL: Final = 8
_ROOT_LIMIT: Final = (BLOCK - _DOTS - _ROOT_INFO.size - _INDEX_TAIL) // _INDEX_ENTRY.size
_NODE_LIMIT: Final = (BLOCK - DIRENT.size - _INDEX_TAIL) // _INDEX_ENTRY.size
_LEAF_FILL: Final = DIRECTORY_ROOM * 7 // 8
"""Leaves keep room for a few new names: a full one is split when the first comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A directory's content; `indexed` where it has an htree (the inode's flag says so)."""

    data: bytes
    indexed: bool


def build(entries: list[Entry], number: int, parent: int, *, inode_seed: int, hash_seed: bytes) -> Blocks:
    """The directory `number`, whose entries are in any one order. RootfsError (without a path) if they are too many."""
    used = _DOTS + sum(_length(name) for name, _, _ in entries)
    if used <= DIRECTORY_ROOM:
        return Blocks(data=_leaf([*_dots(number, parent), *entries], inode_seed), indexed=False)
    leaves = list(_leaves(entries, hash_seed))
    single = len(leaves) <= _ROOT_LIMIT
    nodes = 0 if single else -(-len(leaves) // _NODE_LIMIT)
    if nodes > _ROOT_LIMIT:
        raise RootfsError(f"a directory of {len(entries)} names is more than ext4's two-level index holds")
    pointers = [(first, 1 + nodes + index) for index, (first, _) in enumerate(leaves)]
    blocks = []
    if not single:
        parts = [pointers[at : at + _NODE_LIMIT] for at in range(0, len(pointers), _NODE_LIMIT)]
        blocks = [_index_block(_node_head(), part, _NODE_LIMIT, inode_seed) for part in parts]
        pointers = [(part[0][0], 1 + index) for index, part in enumerate(parts)]
    root = _index_block(_root_head(number, parent, levels=0 if single else 1), pointers, _ROOT_LIMIT, inode_seed)
    return Blocks(data=b"".join([root, *blocks, *(_leaf(part, inode_seed) for _, part in leaves)]), indexed=True)


def most_blocks(names: Iterable[tuple[bytes, object]]) -> int:
    """How many blocks a directory with these names takes at most: how they fill leaves is known with their hashes."""
    lengths = [len(name) + 11 & ~3 for name, _ in names]
    used = _DOTS + sum(lengths)
    if used <= DIRECTORY_ROOM:
        return 1
    leaves = used // (_LEAF_FILL - max(lengths)) + 1
    return 1 + (-(-leaves // _NODE_LIMIT) if leaves > _ROOT_LIMIT else 0) + leaves


def with_spare_blocks(number: int, parent: int, blocks: int, *, inode_seed: int) -> bytes:
    """An empty directory of so many blocks: lost+found, which e2fsck wants to fill without allocating any."""
    empty = _leaf([(b"", 0, 0)], inode_seed)
    return _leaf(_dots(number, parent), inode_seed) + empty * (blocks - 1)


def _dots(number: int, parent: int) -> list[Entry]:
    return [(b".", number, _DIRECTORY_TYPE), (b"..", parent, _DIRECTORY_TYPE)]


def _length(name: bytes) -> int:
    return len(name) + 11 & ~3


def _leaves(entries: list[Entry], hash_seed: bytes) -> Iterator[tuple[int, list[Entry]]]:
    """Entries by hash, a block's worth each, with the lowest hash; bit 0 says that it is the block before's too."""
    hashes = half_md4([name for name, _, _ in entries], hash_seed)
    ordered = sorted(zip(hashes, entries, strict=True))
    part: list[Entry] = []
    first, used, last = 0, 0, -1
    for (major, _), entry in ordered:
        need = _length(entry[0])
        if used + need > _LEAF_FILL:
            yield first, part
            part, first, used = [], major | (major == last), 0
        part.append(entry)
        used += need
        last = major
    yield first, part


def _leaf(entries: list[Entry], seed: int) -> bytes:
    """A block of entries; the last one's length reaches to the checksum."""
    pack = DIRENT.pack
    *others, (name, number, kind) = entries
    parts = []
    used = 0
    for other, inode, file_type in others:
        length = len(other) + 11 & ~3
        parts.append(pack(inode, length, len(other), file_type) + other.ljust(length - 8, b"\0"))
        used += length
    parts.append(pack(number, DIRECTORY_ROOM - used, len(name), kind) + name)
    data = b"".join(parts).ljust(DIRECTORY_ROOM, b"\0")
    return data + _TAIL.pack(0, _TAIL.size, 0, _TAIL_TYPE, continued(seed, data))


def _root_head(number: int, parent: int, *, levels: int) -> bytes:
    dots = (
        DIRENT.pack(number, 12, 1, _DIRECTORY_TYPE)
        + b".\0\0\0"
        + DIRENT.pack(parent, BLOCK - 12, 2, _DIRECTORY_TYPE)
        + b"..\0\0"
    )
    return dots + _ROOT_INFO.pack(0, HALF_MD4, _ROOT_INFO.size, levels, 0)


def _node_head() -> bytes:
    return DIRENT.pack(0, BLOCK, 0, 0)


def _index_block(head: bytes, pointers: list[tuple[int, int]], limit: int, seed: int) -> bytes:
    table = [_LIMIT.pack(limit, len(pointers), pointers[0][1])]
    table.extend(_INDEX_ENTRY.pack(*pointer) for pointer in pointers[1:])
    used = head + b"".join(table)
    checksum = continued(seed, used + bytes(_INDEX_TAIL))
    return used.ljust(BLOCK - _INDEX_TAIL, b"\0") + bytes(4) + checksum.to_bytes(4, "little")


def entries_of(data: bytes) -> Iterator[Entry]:
    """The entries of all blocks of a directory but `.` and `..`. ValueError, struct.error on damage."""
    if len(data) % BLOCK:
        raise ValueError(f"{len(data)} bytes")
    for start in range(0, len(data), BLOCK):
        at = start
        while at < start + BLOCK:
            number, length, name_length, file_type = DIRENT.unpack_from(data, at)
            if length < DIRENT.size + name_length or length % 4 or at + length > start + BLOCK:
                raise ValueError("a broken entry")
            name = data[at + DIRENT.size : at + DIRENT.size + name_length]
            at += length
            if not number or name in {b".", b".."}:
                continue
            if not name or b"/" in name or b"\0" in name:
                raise ValueError("a broken name")
            yield name, number, file_type
