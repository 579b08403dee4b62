"""Streams to read from, as `compression.Readable` has them: pieces, a Tree's file, one whose head was looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from firekiln.rootfs.tree import File

if TYPE_CHECKING:
    from firekiln.rootfs.compression import Readable


class Chunks:
    """What an iterator gives, in the sizes that are asked for."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        while not self._rest:
            more = next(self._chunks, None)
            if more is None:
                return b""
            self._rest = more
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


class FileStream(Chunks):
    """A File of a Tree, from its beginning. `read` raises what the file's sources raise."""

    def __init__(self, file: File) -> None:
        super().__init__(file.chunks())


class Prefixed:
    """`head`, then what `stream` still has."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        if not self._head:
            return self._stream.read(size)
        data, self._head = self._head[:size], self._head[size:]
        return data


def read_head(stream: Readable, size: int) -> bytes:
    """The first `size` bytes, fewer only where there are no more."""
    head = b""
    while len(head) < size and (more := stream.read(size - len(head))):
        head += more
    return head
