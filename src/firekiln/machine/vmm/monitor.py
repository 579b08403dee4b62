"""QEMU's monitor: QMP over a connected socket, one question at a time (docs/interop/qmp-spec.rst of QEMU).

The program at the other end may have been taken over by its guest: an answer is bounded in time and size, and what it
says is shown without control characters.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from firekiln.errors import MachineError

_ANSWER_LIMIT: Final = 1 << 20
_TEXT_LIMIT: Final = 400
_ASK_AGAIN: Final = 0.001


class Monitor:
    """One connection, whose socket belongs to the caller. After a MachineError other than a refusal it is of no use."""

    def __init__(self, connection: socket.socket, *, timeout: float = 30.0) -> None:
        self._socket = connection
        self._timeout = timeout
        self._received = b""
        self._greeted = False

    def execute(self, command: str, *, fds: Sequence[int] = (), **arguments: object) -> Any:
        """What QEMU returns; `fds` go with the command. MachineError where it refuses, hangs or has ended."""
        deadline = time.monotonic() + self._timeout
        if not self._greeted:
            self._message(deadline, command)
            self._greeted = True
            self._ask("qmp_capabilities", {}, (), deadline)
        return self._ask(command, arguments, fds, deadline)

    def save(self, state: int) -> None:
        """Write the state of all devices, but not the memory, which the host shares, to a file; the processors must
        have been stopped.
        """
        self._ignore_shared()
        self.execute("getfd", fds=(state,), fdname="state")
        self.execute("migrate", uri="fd:state")
        self._await_migration()

    def load(self, state: int) -> None:
        """Take that state into a QEMU that was started with `-incoming defer`."""
        self._ignore_shared()
        self.execute("getfd", fds=(state,), fdname="state")
        self.execute("migrate-incoming", uri="fd:state")
        self._await_migration()

    def _ignore_shared(self) -> None:
        # The memory of the one that loads is not shared, but is never sent either: it is there, as a file.
        capability = {"capability": "x-ignore-shared", "state": True}
        self.execute("migrate-set-capabilities", capabilities=[capability])

    def _await_migration(self) -> None:
        deadline = time.monotonic() + self._timeout
        while (state := self.execute("query-migrate")).get("status") != "completed":
            if state.get("status") == "failed":
                raise MachineError(f"QEMU could not: {_printable(str(state.get('error-desc', 'no reason given')))}")
            if time.monotonic() > deadline:
                raise MachineError(f"QEMU took more than {self._timeout:g} s for the state of its devices")
            time.sleep(_ASK_AGAIN)

    def _ask(self, command: str, arguments: Mapping[str, object], fds: Sequence[int], deadline: float) -> Any:
        line = json.dumps({"execute": command, "arguments": arguments}).encode()
        try:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            socket.send_fds(self._socket, [line], fds)
        except OSError as error:
            raise _broken_off(command, error) from error
        while True:  # events come in between
            message = self._message(deadline, command)
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise MachineError(f"QEMU refused {command}: {_printable(str(message['error'].get('desc')))}")

    def _message(self, deadline: float, command: str) -> Any:
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            try:
                self._socket.settimeout(max(0.001, left))
                data = self._socket.recv(1 << 16)
            except TimeoutError as error:
                raise MachineError(
                    f"QEMU did not answer {command} within {self._timeout:g} s", hint="end the machine: firekiln kill"
                ) from error
            except OSError as error:
                raise _broken_off(command, error) from error
            self._received += data
            if not data or len(self._received) > _ANSWER_LIMIT:
                raise _broken_off(command, None)
        line, _, self._received = self._received.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _broken_off(command, None) from error
        return message if isinstance(message, dict) else {}


def _broken_off(command: str, error: OSError | None) -> MachineError:
    reason = f": {os.strerror(error.errno or 0).lower()}" if error is not None else ""
    return MachineError(f"QEMU broke off at {command}{reason}")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:_TEXT_LIMIT]).strip()
