"""Streams to read from, as `compression.Readable` has them: a Tree's file, and one whose beginning was looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firekiln.rootfs.tree import File

if TYPE_CHECKING:
    from firekiln.rootfs.compression import Readable


class FileStream:
    """A File of a Tree, from its beginning. `read` raises what the file's sources raise."""

    def __init__(self, file: File) -> None:
        self._chunks = file.chunks()
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        if not self._rest:
            self._rest = next(self._chunks, b"")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


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
