"""A machine that stands still for a client to copy it, from FREEZE to THAW.

    client                          supervisor                      guest
    {"do":"snapshot","folder":F} ─▶ FREEZE ───────────────────────▶ every process stands still
                                    processors stopped ◀─────────── "frozen"
                                    the devices' state written to F/state
    {"paused": true} + memory ◀──── (its descriptor goes along)
    copies memory and drives
    a byte ───────────────────────▶ processors go on, THAW ───────▶ the processes go on
    {"resumed": true} ◀────────────

The machine goes on whatever becomes of the client: when its connection ends, when somebody stops the machine, when
anything fails. The client then has no `resumed`, and throws away what it has.
"""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from firekiln.errors import FirekilnError
from firekiln.machine.guest.agent import Agent
from firekiln.machine.guest.reports import Frozen


class Still(Protocol):
    """What can be made to stand still: one boot of a machine."""

    @property
    def agent(self) -> Agent: ...

    def save(self, state: Path) -> int:
        """Stop the processors and write the devices' state; the memory's descriptor. FirekilnError."""
        ...

    def go_on(self) -> None:
        """Let the processors go on. FirekilnError."""
        ...


class Standstill:
    """One client's. `ended` is called once, when the machine goes on, or is no more."""

    def __init__(
        self,
        client: socket.socket,
        folder: Path,
        boot: Still,
        selector: selectors.BaseSelector,
        ended: Callable[[], None],
    ) -> None:
        client.setblocking(False)
        self._client = client
        self._folder = folder
        self._boot = boot
        self._selector = selector
        self._ended = ended
        self._stopped = False
        selector.register(client, selectors.EVENT_READ, lambda _: self._on_client())
        boot.agent.freeze()

    def on_frozen(self, event: Frozen) -> None:
        """The guest's answer. Nothing is said to it from here on until it goes on."""
        if self._stopped:
            return
        try:
            if event.reason:
                self._over({"error": event.reason})
                return
            self._stopped = True
            memory = self._boot.save(self._folder / "state")
        except FirekilnError as error:
            self._over({"error": error.message, "hint": error.hint})
            return
        try:
            socket.send_fds(self._client, [_line({"paused": True})], [memory])
        except OSError:  # it has gone
            self._over()

    def interrupt(self) -> None:
        """Let the machine go on at once, because it is to end."""
        self._over({"error": "the machine was stopped meanwhile"})

    def drop(self) -> None:
        """The machine is no more."""
        self._stopped = False
        self._hang_up({"error": "the machine has ended"})

    def _on_client(self) -> None:
        try:
            said = self._client.recv(1)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        self._over({"resumed": True} if said and self._stopped else None)

    def _over(self, answer: dict[str, Any] | None = None) -> None:
        try:
            if self._stopped:
                self._boot.go_on()
            self._boot.agent.thaw()
        except FirekilnError as error:  # a VMM that has ended or hangs: the supervisor sees that by itself
            answer = {"error": error.message, "hint": error.hint}
        self._hang_up(answer)

    def _hang_up(self, answer: dict[str, Any] | None) -> None:
        with suppress(OSError):
            if answer is not None:
                self._client.send(_line(answer))
        self._selector.unregister(self._client)
        self._client.close()
        self._ended()


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
