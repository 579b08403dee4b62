"""dm-verity: a tree of hashes behind an image, by which the kernel checks every block that it reads.

Format of veritysetup (its version 1, SHA-256; Linux, Documentation/admin-guide/device-mapper/verity.rst):

    data blocks │ superblock │ level n (one block) │ … │ level 1 │ level 0: digests of the data blocks

Blocks are of 4 KiB. A digest is that of the salt and the block; 128 digests make a block of the level above, the rest
of a level's last block is zeros. The digest of the one topmost block is the root hash, which says everything.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from firekiln.store.durable import write_all
from firekiln.values import dataclass

BLOCK: Final = 4096
_DIGEST: Final = 32
_PER_BLOCK: Final = BLOCK // _DIGEST
_CHUNK: Final = 1 << 20
_SUPERBLOCK: Final = struct.Struct("<8sII16s32sIIQH6x256s168x")
"""Signature, version, kind of hash, UUID, algorithm, sizes of data and hash blocks, data blocks, salt's size, salt."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are hashed, and with all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verity:
    """What the kernel has to be told of a verified image: its blocks of data, salt and root hash."""

    blocks: int
    salt: bytes
    root: bytes

    @property
    def word(self) -> str:
        """For the kernel's command line, as guest/PROTOCOL.md has it."""
        return f"firekiln.verity={self.blocks}:{self.salt.hex()}:{self.root.hex()}"


def append_to(path: Path, *, seed: bytes, progress: Progress = lambda *_: None) -> Verity:
    """As `append`, for the file at `path` as a whole; salt and UUID are derived from `seed`."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return append(fd, seed=seed, progress=progress)
    finally:
        os.close(fd)


def append(fd: int, *, seed: bytes, start: int = 0, progress: Progress = lambda *_: None) -> Verity:
    """Write superblock and tree behind the data of the file `fd`, which begin at `start` and are filled up to a block.

    Salt and UUID are derived from `seed`: another image should have another one. OSError where the host fails.
    """
    salt = hashlib.sha256(b"firekiln dm-verity salt\0" + seed).digest()
    uuid = hashlib.sha256(b"firekiln dm-verity uuid\0" + seed).digest()[:16]
    blocks = -(-(os.fstat(fd).st_size - start) // BLOCK)
    end = start + blocks * BLOCK
    os.ftruncate(fd, end)
    levels = [_padded(_data_digests(fd, start, end, salt, progress))]
    while len(levels[-1]) > BLOCK:
        levels.append(_padded(b"".join(_digests(levels[-1], salt))))
    (root,) = _digests(levels[-1], salt)
    superblock = _SUPERBLOCK.pack(b"verity\0\0", 1, 1, uuid, b"sha256", BLOCK, BLOCK, blocks, len(salt), salt)
    os.lseek(fd, end, os.SEEK_SET)
    write_all(fd, superblock.ljust(BLOCK, b"\0") + b"".join(reversed(levels)))
    return Verity(blocks=blocks, salt=salt, root=root)


def _padded(digests: bytes) -> bytes:
    return digests + bytes(-len(digests) % BLOCK)


def _digests(data: bytes | memoryview, salt: bytes) -> Iterator[bytes]:
    """One for each block."""
    salted = hashlib.sha256(salt)
    view = memoryview(data)
    for at in range(0, len(view), BLOCK):
        digest = salted.copy()
        digest.update(view[at : at + BLOCK])
        yield digest.digest()


def _data_digests(fd: int, start: int, end: int, salt: bytes, progress: Progress) -> bytes:
    """Those of level 0. Holes are not read."""
    (hole,) = _digests(bytes(BLOCK), salt)
    made = bytearray(hole * ((end - start) // BLOCK))
    buffer = memoryview(bytearray(_CHUNK))
    for first, last in _data_runs(fd, start, end):
        for at in range(first, last, _CHUNK):
            length = min(_CHUNK, last - at)
            if os.preadv(fd, [buffer[:length]], at) != length:
                raise OSError(errno.EIO, "the image became shorter while it was read")
            place = (at - start) // BLOCK * _DIGEST
            digests = b"".join(_digests(buffer[:length], salt))
            made[place : place + len(digests)] = digests
            progress(at + length - start, end - start)
    return bytes(made)


def _data_runs(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """What of the file is no hole, in whole blocks from `start` on."""
    at = start
    while at < end:
        try:
            first = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        last = min(os.lseek(fd, first, os.SEEK_HOLE), end)
        first -= (first - start) % BLOCK
        last += -(last - start) % BLOCK
        yield max(first, at), last
        at = last
