"""A blob to a server: one session, in chunks, begun anew where it is lost (distribution-spec, "Pushing blobs").

A chunk that breaks may be resumed at the border that the server reports; servers exist (distribution 2.8) that
drop the whole session then. Both are tried, as often as the limits allow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import IO, Final
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

from firekiln.errors import RegistryError
from firekiln.oci.registry.server import PUSH, Server
from firekiln.oci.registry.transport import Pace, Response, TransferError

_RANGE: Final = re.compile(r"(?:bytes=)?0-(\d+)")
_LOST: Final = frozenset({400, 404, 410, 416})
"""How servers say that a session is gone, or not where we think."""


class Upload:
    """Puts one blob of `size` bytes. `moved` is told how many bytes went; negative where they went in vain."""

    def __init__(self, server: Server, digest: str, size: int, moved: Callable[[int], None]) -> None:
        self._server = server
        self._digest = digest
        self._size = size
        self._moved = moved
        self._location = ""
        self._done = 0
        self._chunk = server.limits.chunk
        self._what = f"push of blob {digest[:19]} to {server.reference.repository}"

    def begin(self, mount_from: str = "") -> bool:
        """Open a session. True where the blob was mounted from the other repository, so that nothing is to be sent."""
        query = f"?{urlencode({'mount': self._digest, 'from': mount_from})}" if mount_from else ""
        answer = self._server.send("POST", f"blobs/uploads/{query}", PUSH, self._what, headers={"Content-Length": "0"})
        if answer.status == 201:
            return True
        self._server.expect(answer, 202, what="push")
        self._moved(-self._done)
        self._location, self._done = "", 0
        self._follow(answer)
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        if least.isdecimal():
            self._chunk = max(self._chunk, int(least[:12]))
        return False

    def send(self, content: IO[bytes]) -> None:
        """All bytes, and the end of the session. RegistryError, also where the server got others than the digest's."""
        self._server.transport.attempt(lambda: self._round(content), self._what, progress=lambda: self._done)

    def _round(self, content: IO[bytes]) -> None:
        """What is left to do. TransferError where it broke: the next round goes on from where the session stands."""
        if not self._location:
            self.begin()
        while self._done < self._size:
            self._step(content)
        self._finish()

    def _step(self, content: IO[bytes]) -> None:
        length = min(self._chunk, self._size - self._done)
        body = _Slice(content, self._done, length, self._server, self._moved)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length),
            "Content-Range": f"{self._done}-{self._done + length - 1}",
        }
        try:
            answer = self._try("PATCH", self._location, headers, body)
        except TransferError:
            self._moved(-body.sent)
            self._locate()
            raise
        self._server.expect(answer, 202, 204, 201, what="push")
        self._follow(answer)
        self._done += length

    def _try(self, method: str, url: str, headers: Mapping[str, str], body: _Slice | None = None) -> Response:
        """One request of the session; a lost session is a TransferError too."""
        answer = self._server.try_send(method, url, PUSH, headers=headers, body=body)
        if answer.status in _LOST and b"DIGEST_INVALID" not in answer.body:
            raise TransferError(f"HTTP {answer.status}", response=answer)
        return answer

    def _locate(self) -> None:
        """Where the session stands, or that it is lost."""
        answer = None
        if self._location:
            try:
                answer = self._server.try_send("GET", self._location, PUSH)
            except TransferError:
                answer = None
        found = _RANGE.fullmatch(answer.headers.get("Range", "")) if answer and answer.status == 204 else None
        if found and answer and int(found[1]) < self._size:
            reached = int(found[1]) + 1 if found[1] != "0" else 0  # "0-0" is an empty session's
            self._moved(reached - self._done)
            self._done = reached
            self._follow(answer)
        else:
            self._moved(-self._done)
            self._location, self._done = "", 0

    def _finish(self) -> None:
        parts = urlsplit(self._location)
        query = "&".join(filter(None, (parts.query, urlencode({"digest": self._digest}))))
        try:
            answer = self._try("PUT", urlunsplit(parts._replace(query=query)), {"Content-Length": "0"})
        except TransferError:
            self._locate()
            raise
        self._server.expect(answer, 201, 204, what="push")

    def _follow(self, answer: Response) -> None:
        location = answer.headers.get("Location")
        if not location:
            raise RegistryError(f"{self._server.name}: push: it names no place for the upload")
        target = urljoin(self._location or self._server.transport.base, location)
        if urlsplit(target).scheme not in ("http", "https"):
            raise RegistryError(f"{self._server.name}: push: refused to upload to {target.partition(':')[0]}:")
        if self._server.transport.base.startswith("https:") and not target.startswith("https:"):
            raise RegistryError(f"{self._server.name}: push: refused to upload without TLS")
        self._location = target


class _Slice:
    """A part of a file as a request's body."""

    def __init__(self, file: IO[bytes], start: int, length: int, server: Server, moved: Callable[[int], None]) -> None:
        self._file = file
        self._position = start
        self._end = start + length
        self._pace = Pace(server.limits)
        self._tell = moved
        self.sent = 0

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._position
        self._file.seek(self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        self._position += len(data)
        self.sent += len(data)
        self._tell(len(data))
        self._pace.moved(len(data))
        return data
