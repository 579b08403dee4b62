"""A client of Firecracker's API: HTTP/1.1 over a Unix socket.

The process at the other end may have been taken over by its guest: an answer is bounded in time and size, and what it
says is shown without control characters.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from firekiln.errors import MachineError
from firekiln.machine.supervision.unixsocket import socket_address
from firekiln.machine.vmm.firecracker.configuration import Request
from firekiln.oci.config import Json

ANSWER_LIMIT: Final = 1 << 20
_TEXT_LIMIT: Final = 400
_ASK_AGAIN: Final = 0.001


class ApiError(MachineError):
    """Firecracker refused a request. `status` is HTTP's."""

    def __init__(self, request: Request, status: int, reason: str) -> None:
        super().__init__(f"Firecracker refused {request} ({status}): {reason}")
        self.status = status


class Client:
    """A connection to one Firecracker, made by `connect`. Each request takes at most `timeout` seconds, all in all.

    After an error other than ApiError the connection is of no use any more.
    """

    def __init__(self, connection: _Connection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    def send(self, request: Request) -> Json:
        """What Firecracker answers; None for an empty answer. ApiError where it refuses, MachineError else."""
        self._connection.deadline = time.monotonic() + self._timeout
        body = None if request.body is None else json.dumps(request.body)
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})
        try:
            self._connection.request(request.method, request.path, body=body, headers=headers)
            answer = self._connection.getresponse()
            data = answer.read(ANSWER_LIMIT + 1)
            if answer.length and len(data) <= ANSWER_LIMIT:
                raise http.client.IncompleteRead(data, answer.length)
        except TimeoutError as error:
            raise MachineError(
                f"Firecracker did not answer {request} within {self._timeout:g} s",
                hint="it hangs, or was stopped: end the machine (firekiln kill)",
            ) from error
        except (http.client.HTTPException, OSError, ValueError) as error:
            reason = "the answer is cut short" if isinstance(error, http.client.IncompleteRead) else str(error)
            raise MachineError(f"Firecracker broke off at {request}: {_printable(reason)}") from error
        if len(data) > ANSWER_LIMIT:
            raise MachineError(f"Firecracker's answer to {request} is too long")
        if answer.status >= 400:
            raise ApiError(request, answer.status, _fault(data))
        return _parse(request, data)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(folder: Path, name: str, *, timeout: float = 5.0, is_alive: Callable[[], bool] = lambda: True) -> Client:
    """Connect to the socket `name` in `folder` as soon as somebody listens there, within `timeout` seconds.

    MachineError where nobody does, or `is_alive` says before that nobody will.
    """
    deadline = time.monotonic() + timeout
    while True:
        living = is_alive()
        made = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with socket_address(folder, name) as address:
                made.settimeout(timeout)
                made.connect(address)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            made.close()
            if not living:
                raise MachineError("Firecracker ended before its API answered") from error
            if time.monotonic() > deadline:
                raise MachineError(f"Firecracker's API did not come up within {timeout:g} s") from error
            time.sleep(_ASK_AGAIN)
        except OSError as error:
            made.close()
            reason = os.strerror(error.errno or 0).lower()
            raise MachineError(f"Firecracker's API cannot be reached: {folder / name}: {reason}") from error
        else:
            return Client(_Connection(made), timeout)


class _Socket(socket.socket):
    """A socket whose reads and writes all end at one deadline: an answer that drips is none."""

    deadline = 0.0

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self._await()
        return super().recv_into(buffer, nbytes, flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        self._await()
        super().sendall(data, flags)

    def _await(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.settimeout(left)


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket that is connected already; it is not connected anew."""

    auto_open = 0

    def __init__(self, connected: _Socket) -> None:
        super().__init__("localhost")
        self._connected = connected
        self.sock = connected

    @property
    def deadline(self) -> float:
        return self._connected.deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._connected.deadline = value


def _parse(request: Request, data: bytes) -> Json:
    if not data:
        return None
    try:
        return json.loads(data)  # type: ignore[no-any-return] # JSON is Json
    except (ValueError, RecursionError) as error:
        raise MachineError(f"Firecracker's answer to {request} is no JSON") from error


def _fault(data: bytes) -> str:
    """What went wrong, in Firecracker's own words."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        said = None
    message = said.get("fault_message") if isinstance(said, dict) else None
    return _printable(message if isinstance(message, str) else data.decode(errors="replace")) or "it gives no reason"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:_TEXT_LIMIT]).strip()
