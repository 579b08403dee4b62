"""How other processes talk to a machine's supervisor: a Unix socket, one JSON line each way.

A request is `{"do": "stop", "timeout": 10}`, `{"do": "signal", "number": 15}` or `{"do": "wait"}`. The answer to
`signal` comes at once, that to the others when the machine has ended: `{"exit_status": 0}`.

A socket's address holds 107 bytes; a store may lie deeper. So it is named through a descriptor of its folder.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from firekiln.errors import MachineError

NAME = "control"
_LINE_LIMIT = 4096
_CLIENTS_LIMIT = 64

Message = Mapping[str, Any]
Handler = Callable[[Message], Message | None]
"""Takes a request; returns the answer, or None where the machine's end is the answer."""


class Server:
    """The supervisor's end, driven by the supervisor's selector, whose keys carry callbacks as data.

    A client that sends nonsense, or too much, is hung up on. Only the machine's user can connect: the folder is 0700.
    """

    def __init__(self, folder: Path, selector: selectors.BaseSelector, handle: Handler) -> None:
        self._selector = selector
        self._handle = handle
        self._received: dict[socket.socket, bytes] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._path = folder / NAME
        try:
            with _address(folder) as address:
                self._path.unlink(missing_ok=True)
                self._socket.bind(address)
            self._socket.listen(_CLIENTS_LIMIT)
        except BaseException:
            self._socket.close()
            raise
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in list(self._received):
            self._hang_up(client)
        self._selector.unregister(self._socket)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def finish(self, answer: Message) -> None:
        """Answer all that wait for the machine's end."""
        for client in list(self._received):
            self._answer(client, answer)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            client, _ = self._socket.accept()
            client.setblocking(False)
            self._received[client] = b""
            self._selector.register(client, selectors.EVENT_READ, lambda: self._read(client))

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(_LINE_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        line = self._received[client] + data
        if not data or len(line) > _LINE_LIMIT:
            self._hang_up(client)
        elif line.endswith(b"\n"):
            self._received[client] = b""
            answer = self._handle(_decode(line))
            if answer is not None:
                self._answer(client, answer)
        else:
            self._received[client] = line

    def _answer(self, client: socket.socket, answer: Message) -> None:
        with suppress(OSError):  # a client that does not read its one line has lost it
            client.send(_encode(answer))
        self._hang_up(client)

    def _hang_up(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        client.close()
        del self._received[client]


def ask(folder: Path, request: Message, *, timeout: float | None = None) -> Message | None:
    """Send a request and wait for the answer. None where no supervisor is there, or it went without an answer.

    MachineError where it takes longer than `timeout` seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        try:
            with _address(folder) as address:
                client.connect(address)
            client.sendall(_encode(request))
            with client.makefile("rb") as file:
                line = file.readline(_LINE_LIMIT)
        except TimeoutError as error:
            raise MachineError("the machine's supervisor does not answer", hint="firekiln rm -f ends it") from error
        except OSError:
            return None
    return _decode(line) if line else None


def _encode(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _decode(line: bytes) -> Message:
    """A message; an empty one where `line` is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{NAME}"
    finally:
        os.close(fd)
