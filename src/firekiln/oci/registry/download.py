"""A blob's bytes from a server, taken up by range where the connection breaks (RFC 9110, section 14)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from firekiln.errors import ImageFormatError, RegistryError
from firekiln.oci.digest import check
from firekiln.oci.manifest import Descriptor
from firekiln.oci.registry.server import PULL, Server
from firekiln.oci.registry.transport import Response, TransferError, stream

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-")


class Download:
    """Something to read. What was read stays read: after a break the server is asked for the rest only, and where it
    sends all from the start, as it may, that is skipped. Whether both fit together, the reader's digest tells.
    """

    def __init__(self, server: Server, descriptor: Descriptor, connection: ExitStack) -> None:
        """Makes the first request. ImageFormatError where the server lacks the blob, RegistryError."""
        self._server = server
        self._descriptor = descriptor
        self._path = f"blobs/{check(descriptor.digest)}"
        self._what = f"blob {descriptor.digest[:19]} of {server.reference.repository}"
        self._connection = connection
        self._position = 0
        self._rest = b""
        self._body: Iterator[bytes] | None = server.transport.attempt(self._request, self._what)

    def read(self, size: int, /) -> bytes:
        """As a file's. RegistryError where the rest can't be had."""
        if not self._rest:
            self._rest = self._server.transport.attempt(self._next, self._what, progress=lambda: self._position)
            self._position += len(self._rest)
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _next(self) -> bytes:
        """The next piece, b"" at the end. TransferError where the connection broke: the next call makes a new one."""
        if self._body is None:
            self._body = self._request()
        try:
            piece = next(self._body, b"")
        except TransferError:
            self._body = None
            raise
        if not piece and self._position < self._descriptor.size:
            self._body = None
            raise TransferError(f"it ended after {self._position} of {self._descriptor.size} bytes")
        return piece

    def _request(self) -> Iterator[bytes]:
        self._connection.close()
        headers = {"Range": f"bytes={self._position}-"} if self._position else {}
        answer = self._connection.enter_context(self._server.open(self._path, PULL, headers))
        if isinstance(answer, Response):
            if answer.status == 404:
                raise ImageFormatError(f"{self._server.name}: it lacks the blob {self._descriptor.digest}")
            raise self._server.refusal(answer, "pull")
        skip = self._position
        if answer.status == 206:
            found = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
            if not found or int(found[1]) != self._position:
                raise RegistryError(f"{self._server.name}: asked for a blob's rest, it sent another part")
            skip = 0
        return _without(stream(answer, self._server.limits), skip)


def _without(pieces: Iterator[bytes], skip: int) -> Iterator[bytes]:
    for piece in pieces:
        if skip < len(piece):
            yield piece[skip:]
        skip = max(0, skip - len(piece))
