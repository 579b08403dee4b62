"""One client of a supervisor that hears, and perhaps feeds, one process of the guest: frames both ways.

To the client: STARTED, STDOUT, STDERR, STAT, and at last EXITED or FAILED, and CREDIT for its standard input. From it:
STDIN (with a window of STDIN_WINDOW), RESIZE, SIGNAL, STOP and DETACH. What waits in memory for a client is bounded: a
process beside the main one is granted more output only when its client has taken what there was.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from firekiln.errors import MachineError
from firekiln.machine.guest.agent import Agent
from firekiln.machine.guest.protocol import MAIN, STDIN_WINDOW, Decoder, Frame, FrameType, control, parse_control

_READ = 1 << 16
_BACKLOG = 1 << 20
"""Bytes that may wait for a client of the main process before the guest's channel is left alone."""


class Orders(Protocol):
    """What a session's client may ask of the machine itself."""

    @property
    def agent(self) -> Agent | None:
        """The guest's end; None while none is booted."""
        ...

    def received(self, number: int) -> None:
        """The client's terminal, or its user, sent it this signal: the machine is to end in order."""
        ...

    def signal(self, number: int) -> None:
        """Deliver a signal to the main process."""
        ...


class Session:
    """A client, by its connected socket, of one process. `owner`: the machine is stopped when its client is lost.

    `stdin`: its input is the process's. `ended` is called once, when the client is gone or has all it is to have.
    """

    def __init__(
        self,
        client: socket.socket,
        selector: selectors.BaseSelector,
        orders: Orders,
        *,
        process: int = MAIN,
        owner: bool = False,
        stdin: bool = False,
        closes_stdin: bool = False,
        ended: Callable[[Session], None],
    ) -> None:
        client.setblocking(False)
        self.process = process
        self.owner = owner
        self.lost = False
        self._closes_stdin = closes_stdin
        self._client: socket.socket | None = client
        self._selector = selector
        self._orders = orders
        self._takes_stdin = stdin
        self._ended = ended
        self._decoder = Decoder()
        self._outgoing = bytearray()
        self._uncredited = 0
        self._stdin = bytearray()
        self._stdin_over = False
        self._finishing = False
        selector.register(client, selectors.EVENT_READ, self._on_ready)

    @property
    def is_congested(self) -> bool:
        """Whether its client lags so far behind the main process that this has to wait."""
        return self._client is not None and self.process == MAIN and len(self._outgoing) > _BACKLOG

    @property
    def is_pending(self) -> bool:
        """Whether something waits for the client to take it."""
        return self._client is not None and bool(self._outgoing)

    # --- to the client ----------------------------------------------------------------------------------------------

    def send(self, kind: FrameType, data: bytes = b"") -> None:
        """Queue a frame. Where the client is gone, it is dropped."""
        if kind in (FrameType.STDOUT, FrameType.STDERR):
            self._uncredited += len(data)
        if self._client is not None:
            self._outgoing += Frame(kind, data, self.process).encode()
        self.flush()

    def tell(self, kind: FrameType, **fields: Any) -> None:
        """Queue a control frame."""
        self.send(kind, control(kind, **fields).payload)

    def finish(self) -> None:
        """Nothing more will come: hang up when the client has taken what there is."""
        self._finishing = True
        self.flush()

    def flush(self) -> None:
        """Write as much as the client takes now."""
        client = self._client
        if client is not None:
            try:
                while self._outgoing:
                    del self._outgoing[: client.send(self._outgoing)]
            except BlockingIOError:
                self._selector.modify(client, selectors.EVENT_READ | selectors.EVENT_WRITE, self._on_ready)
                return
            except OSError:  # it has gone; what it said before that, a farewell perhaps, is still to be read
                self._outgoing.clear()
            self._selector.modify(client, selectors.EVENT_READ, self._on_ready)
        agent, taken, self._uncredited = self._orders.agent, self._uncredited, 0
        if agent is not None and taken:
            agent.credit(self.process, taken)
        if self._finishing:
            self.drop()

    def drop(self) -> None:
        """Let the client go."""
        if self._client is not None:
            self._selector.unregister(self._client)
            self._client.close()
            self._client = None
            self._outgoing.clear()
            self._ended(self)

    # --- from the client --------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes that the client sent. One that breaks the rules is hung up on."""
        try:
            for frame in self._decoder.feed(data):
                self._take(frame)
        except MachineError:
            self._lose()
            return
        self.pump()

    def pump(self) -> None:
        """Hand on standard input, as far as the guest has room, and grant the client as much again."""
        agent = self._orders.agent
        if agent is None:
            return
        taken = agent.stdin(bytes(self._stdin), self.process) if self._stdin else 0
        if taken:
            del self._stdin[:taken]
            self.send(FrameType.CREDIT, taken.to_bytes(4, "little"))
        if self._stdin_over and not self._stdin:
            self._stdin_over = False
            if self._closes_stdin:
                agent.close_stdin(self.process)

    def _take(self, frame: Frame) -> None:
        agent = self._orders.agent
        match frame.type:
            case FrameType.STDIN if self._takes_stdin:
                self._stdin += frame.payload
                self._stdin_over = self._stdin_over or not frame.payload
                if len(self._stdin) > STDIN_WINDOW:
                    raise MachineError("a client sends more than it was granted")
            case FrameType.RESIZE if agent is not None:
                fields = parse_control(frame)
                agent.resize(_number(fields, "rows"), _number(fields, "columns"), self.process)
            case FrameType.SIGNAL if self.process == MAIN:
                self._orders.signal(_number(parse_control(frame), "signal"))
            case FrameType.SIGNAL if agent is not None:
                agent.signal(_number(parse_control(frame), "signal"), self.process)
            case FrameType.STOP if self.owner:
                self._orders.received(_number(parse_control(frame), "signal"))
            case FrameType.DETACH:
                self.owner = False
                self.drop()

    def _on_ready(self, ready: int) -> None:
        if ready & selectors.EVENT_WRITE:
            self.flush()
        if ready & selectors.EVENT_READ and self._client is not None:
            try:
                data = self._client.recv(_READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self.feed(data)
            else:
                self._lose()

    def _lose(self) -> None:
        """The client went without a farewell."""
        self.lost = True
        agent = self._orders.agent
        if agent is not None and self.process != MAIN:
            with suppress(MachineError):
                agent.close_process(self.process)
        elif agent is not None and self._closes_stdin:
            with suppress(MachineError):
                agent.close_stdin()
        self.drop()


def _number(fields: Any, name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value <= 0xFFFF:
        raise MachineError(f"a client's {name} is no number")
    return value
