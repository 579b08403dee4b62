"""One step under way, seen from the process that asked for it: its output, its reports, its end."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from firekiln.sandbox.launcher import Launcher
from firekiln.sandbox.request import Report, Request, Stub
from firekiln.sandbox.step import Output
from firekiln.sandbox.upper import Area

TICK_MS: Final = 100
"""How often `cancel` is looked at while the step says nothing."""
_DRAIN_SECONDS: Final = 2.0
_CHUNK: Final = 1 << 16
_MESSAGE: Final = 1 << 18


class SpawnerGoneError(Exception):
    """The spawner ended before it reported the step's end."""


@dataclass(slots=True)
class Running:
    """The step's socket, the ends of its pipes by descriptor (to 1 or 2), and what was reported so far."""

    channel: socket.socket
    pipes: dict[int, int]
    area: Area
    stubs: Sequence[Stub] = ()
    error: str | None = None
    status: int | None = None
    cancelled: bool = False
    was_full: bool = False
    out_of_memory: bool = False
    _poll: select.poll = field(default_factory=select.poll)

    def follow(self, output: Output, cancel: threading.Event) -> None:
        """Until the step's end and all its output. SpawnerGoneError; what `output` raises ends the step first."""
        for fd in (self.channel.fileno(), *self.pipes):
            self._poll.register(fd, select.POLLIN)
        try:
            while self.status is None:
                if cancel.is_set() and not self.cancelled:
                    self.cancelled = True
                    self._kill()
                self._turn(output)
            self._drain(output)
        finally:
            if self.status is None:
                self._end()

    def _turn(self, output: Output) -> bool:
        events = self._poll.poll(TICK_MS)
        for fd, _ in events:
            if fd == self.channel.fileno():
                self._hear()
            elif data := os.read(fd, _CHUNK):
                output(self.pipes[fd], data)
            else:
                self._poll.unregister(fd)
                del self.pipes[fd]
        self.was_full = self.was_full or self.area.nearly_full()
        return bool(events)

    def _hear(self) -> None:
        data = self.channel.recv(_MESSAGE)
        if not data:
            raise SpawnerGoneError
        report = Report.decode(data)
        self.stubs = report.stubs if report.stubs is not None else self.stubs
        self.error = self.error or report.error
        self.status = report.status
        if self.status is not None:
            self._poll.unregister(self.channel.fileno())

    def _drain(self, output: Output) -> None:
        """What is still in the pipes. Nothing of the step is left to hold them open, but a process of the host that it
        passed a descriptor to might.
        """
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self.pipes and (self._turn(output) or time.monotonic() < deadline):
            pass

    def _kill(self) -> None:
        """By ending our half of the channel: a message that was never read would cost us the spawner's last report."""
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_WR)

    def _end(self) -> None:
        """Kill the step and wait for its end, whatever is still said; nobody hears it."""
        self._kill()
        with contextlib.suppress(SpawnerGoneError, OSError):
            while self.status is None:
                self._hear()


@contextmanager
def started(launcher: Launcher, request: Request, area: Area, mounts: Sequence[int]) -> Iterator[Running]:
    """Start the step of `request`, whose `Attached` mounts count `mounts`; its control groups come after them."""
    with ExitStack() as held:
        with ExitStack() as theirs:
            channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            held.enter_context(channel)
            theirs.enter_context(far)
            pipes = {}
            writable = []
            for number in (1, 2):
                reading, writing = os.pipe()
                held.callback(os.close, reading)
                theirs.callback(os.close, writing)
                pipes[reading] = number
                writable.append(writing)
            launcher.start(request, far, [*writable, area.mount, *mounts])
        yield Running(channel, pipes, area)
