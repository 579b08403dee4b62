"""How other processes talk to a machine's supervisor: a Unix socket, on which a client says one JSON line.

`{"do": "stop", "timeout": 10}` (perhaps with a `signal`), `{"do": "wait"}`, `{"do": "signal", "number": 15}`,
`{"do": "stats"}` and `{"do": "top"}` are answered by one JSON line; the first two when the machine has ended:
`{"exit_status": 0}`. After `{"do": "attach"}`, `exec`, `read`, `write` and `stat` the connection carries frames; see
`session`.
"""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from firekiln.errors import MachineError
from firekiln.machine.supervision.unixsocket import socket_address

if TYPE_CHECKING:
    import os
    from pathlib import Path

NAME = "control"
LINE_LIMIT = 1 << 16
_CLIENTS_LIMIT = 128

Message = Mapping[str, Any]


class Taken:
    """What a Handler answers when the connection has become its own."""


class Later:
    """What a Handler answers when `Server.answer` will, by the name of what is waited for."""

    def __init__(self, what: str) -> None:
        self.what = what


Handler = Callable[[Message, socket.socket, bytes], Message | Taken | Later]
"""Takes a request, the client's socket and what it has sent behind the line."""


class Server:
    """The supervisor's end, driven by its selector, whose keys carry callbacks of the ready events as data.

    A client that sends nonsense, or too much, is hung up on. Only the machine's user can connect: the folder is 0700.
    """

    def __init__(self, folder: Path, selector: selectors.BaseSelector, handle: Handler) -> None:
        self._selector = selector
        self._handle = handle
        self._received: dict[socket.socket, bytes] = {}
        self._waiting: dict[socket.socket, str] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._path = folder / NAME
        try:
            with socket_address(folder, NAME) as address:
                self._path.unlink(missing_ok=True)
                self._socket.bind(address)
            self._socket.listen(_CLIENTS_LIMIT)
        except BaseException:
            self._socket.close()
            raise
        selector.register(self._socket, selectors.EVENT_READ, lambda _: self._accept())

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

    def answer(self, what: str, answer: Message) -> None:
        """Answer all that wait for `what`."""
        for client in [client for client, wanted in self._waiting.items() if wanted == what]:
            self._answer(client, answer)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            client, _ = self._socket.accept()
            if len(self._received) >= _CLIENTS_LIMIT:
                client.close()
                return
            client.setblocking(False)
            self._received[client] = b""
            self._selector.register(client, selectors.EVENT_READ, lambda _: self._read(client))

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(LINE_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        line, newline, rest = (self._received[client] + data).partition(b"\n")
        if not data or client in self._waiting or len(line) > LINE_LIMIT:
            self._hang_up(client)
        elif newline:
            self._take(client, _decode(line), rest)
        else:
            self._received[client] = line

    def _take(self, client: socket.socket, request: Message, rest: bytes) -> None:
        self._selector.unregister(client)
        answer = self._handle(request, client, rest)
        if isinstance(answer, Taken):
            del self._received[client]
            return
        self._selector.register(client, selectors.EVENT_READ, lambda _: self._read(client))
        if isinstance(answer, Later):
            self._waiting[client] = answer.what
        else:
            self._answer(client, answer)

    def _answer(self, client: socket.socket, answer: Message) -> None:
        with suppress(OSError):  # a client that does not read its one line has lost it
            client.send(_encode(answer))
        self._hang_up(client)

    def _hang_up(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        client.close()
        self._waiting.pop(client, None)
        del self._received[client]


def ask(folder: str | os.PathLike[str], request: Message, *, timeout: float | None = None) -> Message | None:
    """Send a request and wait for the answer. None where no supervisor is there, or it went without an answer.

    MachineError where it takes longer than `timeout` seconds.
    """
    try:
        client = connect(folder, request)
        if client is None:
            return None
        with client:
            client.settimeout(timeout)
            with client.makefile("rb") as file:
                line = file.readline()
    except TimeoutError as error:
        raise MachineError("the machine's supervisor does not answer", hint="firekiln rm -f ends it") from error
    except OSError:
        return None
    return _decode(line) if line else None


def connect(folder: str | os.PathLike[str], request: Message) -> socket.socket | None:
    """The connection on which a request has been made; it blocks. None where no supervisor is there. MachineError."""
    line = _encode(request)
    if len(line) > LINE_LIMIT:
        raise MachineError(
            f"the command line and environment are too long: {len(line)} bytes",
            hint="pass large values as files or on standard input",
        )
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(folder, NAME) as address:
            client.connect(address)
        client.sendall(line)
    except OSError:
        client.close()
        return None
    except BaseException:
        client.close()
        raise
    return client


def _encode(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _decode(line: bytes) -> Message:
    """A message; an empty one where `line` is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
