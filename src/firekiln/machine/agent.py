"""The host's end of the agent protocol: PID 1 of one machine behind a connected Unix socket.

`Agent` never blocks but in `wait`, so that a supervisor may put it into a selector of its own: register it for
reading (and for writing while `wants_write`), call `receive` (and `flush`) when it is ready. What the guest says is
never trusted: lengths are bounded, numbers checked, text made printable; a breach is a MachineError, after which the
machine should be stopped. Nothing the guest says makes this side hold more than a few hundred KiB.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from firekiln.errors import MachineError
from firekiln.machine import protocol
from firekiln.machine.protocol import CONTROL_LIMIT, MAIN, PAYLOAD_LIMIT, STDIN_WINDOW, Decoder, Frame, FrameType

_READ = 1 << 18
_QUEUE_LIMIT = 1 << 20
_TEXT_LIMIT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The guest's PID 1 runs. `protocol` is the version that both sides speak; `uptime_ms` its kernel's age then."""

    protocol: int
    uptime_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The process executes the program; `pid` and `uid` are the guest's, `uptime_ms` its kernel's age at that time."""

    pid: int
    uid: int
    uptime_ms: int
    process: int = MAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Bytes that a process wrote to descriptor 1 or 2. Empty `data` is the end of that descriptor's output."""

    fd: Literal[1, 2]
    data: bytes
    process: int = MAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """A process has ended, by `code` or by `signal`; all of its output came before.

    `oom` says that the guest's kernel killed it because memory was short. The machine powers itself off when its main
    process has ended.
    """

    code: int | None
    signal: int | None = None
    oom: bool = False
    process: int = MAIN

    @property
    def status(self) -> int:
        """As a shell says it: 128 + n for signal n."""
        return self.code if self.code is not None else 128 + (self.signal or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A process could not be started. `status` is Docker's word for it: 125, 126 (not executable) or 127 (not found).

    `stage` names what failed (`document`, `drive`, `root`, `mount`, `network`, `user`, `cwd`, `exec`, `process`); it is
    for programs, `message` for people.
    """

    stage: str
    message: str
    errno: int
    status: int
    process: int = MAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A remark of PID 1 itself: something is not as it should be, and the machine goes on."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """The answer to `ping`, with its payload."""

    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The channel has ended: the VMM is gone, or closed it. The last event of an agent."""


Event: TypeAlias = Hello | Started | Output | Exited | Failed | Log | Pong | Closed


class Agent:
    """One connection to one guest. It owns the socket and closes it at the end of its context."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._socket = channel
        self._decoder = Decoder()
        self._outgoing = bytearray()
        self._stdin_room = STDIN_WINDOW
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()
        self._closed = True

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether bytes for the guest wait in memory for the socket to take them."""
        return bool(self._outgoing) and not self._closed

    @property
    def stdin_room(self) -> int:
        """Bytes of standard input that the guest has room for. It grows as the process reads."""
        return self._stdin_room

    # --- from the guest ---------------------------------------------------------------------------------------------

    def receive(self) -> list[Event]:
        """What has arrived, without waiting; nothing where nothing has. MachineError for a breach of the protocol."""
        if self._closed:
            return []
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self._closed = True
            return [Closed()]
        return [event for frame in self._decoder.feed(data) if (event := self._event(frame)) is not None]

    def wait(self, timeout: float | None) -> list[Event]:
        """Events as soon as there are some, or nothing after `timeout` seconds (None: for ever). Sends meanwhile."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            if not self._closed:
                selector.register(self, selectors.EVENT_READ)
            while not self._closed:
                writing = selectors.EVENT_WRITE if self.wants_write else 0
                selector.modify(self, selectors.EVENT_READ | writing)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left < 0:
                    break
                for _, ready in selector.select(left):
                    if ready & selectors.EVENT_WRITE:
                        self.flush()
                    if ready & selectors.EVENT_READ and (events := self.receive()):
                        return events
        return []

    def _event(self, frame: Frame) -> Event | None:
        event: Event | None = None
        match frame.type:
            case FrameType.STDOUT | FrameType.STDERR:
                fd: Literal[1, 2] = 1 if frame.type == FrameType.STDOUT else 2
                event = Output(fd=fd, data=frame.payload, process=frame.process)
            case FrameType.PONG:
                event = Pong(payload=frame.payload)
            case FrameType.PING:
                self._send(Frame(FrameType.PONG, frame.payload))
            case FrameType.CREDIT:
                self._credit(frame)
            case FrameType.HELLO:
                event = self._hello(protocol.parse_control(frame))
            case FrameType.LOG:
                event = Log(message=_text(protocol.parse_control(frame), "message"))
            case FrameType.STARTED | FrameType.EXITED | FrameType.FAILED:
                event = self._news(frame, protocol.parse_control(frame))
        return event  # nothing for a type of a later version

    def _hello(self, fields: Mapping[str, Any]) -> Hello:
        newest, oldest = _integer(fields, "protocol", 1), _integer(fields, "oldest", 1)
        if oldest > protocol.VERSION:
            raise protocol.broken(f"it speaks versions {oldest} to {newest} only")
        spoken = min(newest, protocol.VERSION)
        self._send(protocol.control(FrameType.HELLO, protocol=spoken, time_ns=time.time_ns()))
        return Hello(protocol=spoken, uptime_ms=_integer(fields, "uptime_ms"))

    def _news(self, frame: Frame, fields: Mapping[str, Any]) -> Event:
        if frame.type == FrameType.STARTED:
            pid, uid = _integer(fields, "pid", 1), _integer(fields, "uid")
            return Started(pid=pid, uid=uid, uptime_ms=_integer(fields, "uptime_ms"), process=frame.process)
        if frame.process == MAIN:
            self.shutdown()  # the acknowledgement that the guest's power-off waits for
        return _failed(frame, fields) if frame.type == FrameType.FAILED else _exited(frame, fields)

    def _credit(self, frame: Frame) -> None:
        granted = int.from_bytes(frame.payload, "little")
        if frame.process != MAIN or len(frame.payload) != 4 or granted > STDIN_WINDOW - self._stdin_room:
            raise protocol.broken("it grants more standard input than was sent")
        self._stdin_room += granted

    # --- to the guest -----------------------------------------------------------------------------------------------

    def stdin(self, data: bytes) -> int:
        """Send standard input; as much as there is `stdin_room` for. Returns the number of bytes taken."""
        taken = data[: self._stdin_room]
        for start in range(0, len(taken), PAYLOAD_LIMIT):
            self._send(Frame(FrameType.STDIN, taken[start : start + PAYLOAD_LIMIT], MAIN))
        self._stdin_room -= len(taken)
        return len(taken)

    def close_stdin(self) -> None:
        """The process reads the end of its standard input once it has read all that was sent."""
        self._send(Frame(FrameType.STDIN, b"", MAIN))

    def signal(self, number: int) -> None:
        """Deliver a signal to the main process."""
        self._send(protocol.control(FrameType.SIGNAL, MAIN, signal=number))

    def stop(self, signal: int, timeout_ms: int) -> None:
        """Deliver `signal` to the main process, and SIGKILL when it has not ended after `timeout_ms`."""
        self._send(protocol.control(FrameType.STOP, MAIN, signal=signal, timeout_ms=timeout_ms))

    def shutdown(self) -> None:
        """End everything at once (SIGKILL), sync and power off."""
        self._send(protocol.control(FrameType.SHUTDOWN))

    def ping(self, payload: bytes = b"") -> None:
        """Ask for a Pong with the same payload, at most CONTROL_LIMIT bytes."""
        assert len(payload) <= CONTROL_LIMIT
        self._send(Frame(FrameType.PING, payload))

    def flush(self) -> None:
        """Write what waits, as far as the socket takes it now. A channel that is gone shows as Closed in `receive`."""
        while self._outgoing and not self._closed:
            try:
                sent = self._socket.send(self._outgoing)
            except OSError:  # full, or gone: then reading says so
                return
            del self._outgoing[:sent]

    def _send(self, frame: Frame) -> None:
        if self._closed:
            return
        if len(self._outgoing) > _QUEUE_LIMIT:
            raise MachineError(
                "the guest does not read its agent channel",
                hint="its kernel hangs or has panicked: see its console, and stop the machine",
            )
        self._outgoing += frame.encode()
        self.flush()


def _exited(frame: Frame, fields: Mapping[str, Any]) -> Exited:
    oom = fields.get("oom") is True
    if "signal" in fields:
        return Exited(code=None, signal=_integer(fields, "signal", 1, 127), oom=oom, process=frame.process)
    return Exited(code=_integer(fields, "code", 0, 255), oom=oom, process=frame.process)


def _failed(frame: Frame, fields: Mapping[str, Any]) -> Failed:
    return Failed(
        stage=_text(fields, "stage"),
        message=_text(fields, "message"),
        errno=_integer(fields, "errno", 0, 4095),
        status=_integer(fields, "status", 125, 127),
        process=frame.process,
    )


def _integer(fields: Mapping[str, Any], name: str, low: int = 0, high: int = (1 << 63) - 1) -> int:
    value = fields.get(name)
    if type(value) is not int or not low <= value <= high:
        raise protocol.broken(f"its {name} is no number from {low} to {high}")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    """A string for people's eyes: bounded, and without control characters that a terminal would obey."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise protocol.broken(f"its {name} is no string")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value[:_TEXT_LIMIT])
