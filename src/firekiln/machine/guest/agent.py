"""The host's end of the agent protocol: PID 1 of one machine behind a connected Unix socket.

`Agent` never blocks but in `wait`, so that a supervisor may put it into a selector of its own: register it for
reading (and for writing while `wants_write`), call `receive` (and `flush`) when it is ready. What the guest says is
never trusted: lengths are bounded, numbers checked, text made printable; a breach is a MachineError, after which the
machine should be stopped. What it says of processes that have ended, or never were, is dropped. Nothing the guest says
makes this side hold more than a few hundred KiB.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from firekiln.errors import MachineError
from firekiln.machine.guest import protocol
from firekiln.machine.guest.protocol import (
    CONTROL_LIMIT,
    MAIN,
    OUTPUT_WINDOW,
    PAYLOAD_LIMIT,
    PROCESSES_LIMIT,
    STDIN_WINDOW,
    Decoder,
    Frame,
    FrameType,
)
from firekiln.machine.guest.reports import (
    Closed,
    Event,
    Exited,
    Failed,
    Hello,
    Output,
    Pong,
    Report,
    Started,
    Stat,
    integer,
    report,
)

_READ = 1 << 18
_QUEUE_LIMIT = 1 << 20
_LAST_NUMBER = 0xFFFF
_ENTROPY = 64
"""Bytes of randomness for a clone."""


class _Process:
    """What is under way to and from one process of the guest, in bytes."""

    __slots__ = ("output_room", "stdin_room")

    def __init__(self) -> None:
        self.stdin_room = STDIN_WINDOW
        self.output_room = OUTPUT_WINDOW


class Agent:
    """One connection to one guest. It owns the socket and closes it at the end of its context."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._socket = channel
        self._decoder = Decoder()
        self._outgoing = bytearray()
        self._held: bytearray | None = None
        self._processes = {MAIN: _Process()}
        self._last = MAIN
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
    def is_closed(self) -> bool:
        return self._closed

    @property
    def wants_write(self) -> bool:
        """Whether bytes for the guest wait in memory for the socket to take them."""
        return bool(self._outgoing) and not self._closed

    def stdin_room(self, process: int = MAIN) -> int:
        """Bytes of standard input that the guest has room for. It grows as the process reads."""
        found = self._processes.get(process)
        return found.stdin_room if found else 0

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
                event = self._output(frame)
            case FrameType.PONG:
                event = Pong(payload=frame.payload)
            case FrameType.PING:
                self._send(Frame(FrameType.PONG, frame.payload))
            case FrameType.CREDIT:
                self._credited(frame)
            case FrameType.HELLO:
                event = self._hello(protocol.parse_control(frame))
            case _:
                event = self._reported(report(frame))
        return event  # nothing for a type of a later version

    def _hello(self, fields: Mapping[str, Any]) -> Hello:
        newest, oldest = integer(fields, "protocol", 1), integer(fields, "oldest", 1)
        if oldest > protocol.VERSION:
            raise protocol.broken(f"it speaks versions {oldest} to {newest} only")
        spoken = min(newest, protocol.VERSION)
        self._send(protocol.control(FrameType.HELLO, protocol=spoken, time_ns=time.time_ns()))
        return Hello(protocol=spoken, uptime_ms=integer(fields, "uptime_ms"))

    def _output(self, frame: Frame) -> Output | None:
        process = self._processes.get(frame.process)
        if process is None:
            return None  # what its end has overtaken
        if frame.process != MAIN:
            process.output_room -= len(frame.payload)
            if process.output_room < 0:
                raise protocol.broken("it sends more output than it was granted")
        fd: Literal[1, 2] = 1 if frame.type == FrameType.STDOUT else 2
        return Output(fd=fd, data=frame.payload, process=frame.process)

    def _reported(self, event: Report | None) -> Report | None:
        match event:
            case Exited() | Failed() if event.process == MAIN:
                if not (isinstance(event, Exited) and event.again_ms is not None):
                    self.shutdown()  # the acknowledgement that the guest's power-off waits for
            case Started() | Exited() | Failed() | Stat() if event.process not in self._processes:
                return None
            case Exited() | Failed():
                del self._processes[event.process]
        return event

    def _credited(self, frame: Frame) -> None:
        granted, process = int.from_bytes(frame.payload, "little"), self._processes.get(frame.process)
        if process is None:
            return
        if len(frame.payload) != 4 or granted > STDIN_WINDOW - process.stdin_room:
            raise protocol.broken("it grants more standard input than was sent")
        process.stdin_room += granted

    # --- to the guest -----------------------------------------------------------------------------------------------

    def stdin(self, data: bytes, process: int = MAIN) -> int:
        """Send standard input; as much as there is `stdin_room` for. Returns the number of bytes taken."""
        taken = data[: self.stdin_room(process)]
        for start in range(0, len(taken), PAYLOAD_LIMIT):
            self._send(Frame(FrameType.STDIN, taken[start : start + PAYLOAD_LIMIT], process))
        if taken:
            self._processes[process].stdin_room -= len(taken)
        return len(taken)

    def close_stdin(self, process: int = MAIN) -> None:
        """The process reads the end of its standard input once it has read all that was sent."""
        self._tell(process, Frame(FrameType.STDIN, b"", process))

    def credit(self, process: int, consumed: int) -> None:
        """Let a process other than the main one write so many bytes more: they were handed on."""
        found = self._processes.get(process)
        if found and process != MAIN and consumed:
            found.output_room += consumed
            self._send(Frame(FrameType.CREDIT, consumed.to_bytes(4, "little"), process))

    def signal(self, number: int, process: int = MAIN, *, ends: bool = False) -> None:
        """Deliver a signal to a process. `ends`: no restart policy starts it again."""
        fields = {"signal": number, **({"ends": True} if ends else {})}
        self._tell(process, protocol.control(FrameType.SIGNAL, process, **fields))

    def resize(self, rows: int, columns: int, process: int = MAIN) -> None:
        """Tell a process's terminal its size."""
        self._tell(process, protocol.control(FrameType.RESIZE, process, rows=rows, columns=columns))

    def stop(self, signal: int, timeout_ms: int) -> None:
        """Deliver `signal` to the main process, and SIGKILL when it has not ended after `timeout_ms`."""
        self._send(protocol.control(FrameType.STOP, MAIN, signal=signal, timeout_ms=timeout_ms))

    def shutdown(self) -> None:
        """End everything at once (SIGKILL), sync and power off."""
        self._send(protocol.control(FrameType.SHUTDOWN))

    def step(self, document: bytes, order: Mapping[str, Any]) -> None:
        """Have a machine for steps run one, as its main process; Ready comes behind its Exited or Failed."""
        for start in range(0, len(document), PAYLOAD_LIMIT):
            self._send(Frame(FrameType.DOCUMENT, document[start : start + PAYLOAD_LIMIT]))
        frame = protocol.control(FrameType.STEP, **order)
        if len(frame.payload) > PAYLOAD_LIMIT:
            raise MachineError("the step has too many layers and mounts")
        self._send(frame)

    def exec(
        self,
        argv: Sequence[str],
        *,
        env: Sequence[str] = (),
        user: str | None = None,
        cwd: str | None = None,
        tty: tuple[int, int] | None = None,
        stdin: bool = False,
    ) -> int:
        """Start another process; its number. `tty` is rows and columns of a terminal. MachineError where too many run.

        Started or Failed answers; after Exited or Failed the number is another's.
        """
        terminal = {"rows": tty[0], "columns": tty[1]} if tty else None
        words = {"argv": [*argv], "env": [*env], "user": user, "cwd": cwd, "tty": terminal, "stdin": stdin}
        return self._open(FrameType.EXEC, privileged=False, **words)

    def read(self, path: str, *, follow: bool) -> int:
        """Ask for a tar of a path, as Output after a Stat, then Exited or Failed; the number of all these."""
        return self._open(FrameType.READ, path=path, follow=follow)

    def write(self, path: str, *, keep_owner: bool) -> int:
        """Have a tar, which is then sent as standard input, unpacked in a directory; the number. Exited or Failed."""
        return self._open(FrameType.WRITE, path=path, keep_owner=keep_owner)

    def stat(self, path: str, *, follow: bool) -> int:
        """Ask what is at a path; the number of the Stat or Failed that answers. `release` it after a Stat."""
        return self._open(FrameType.STAT, path=path, follow=follow)

    def release(self, process: int) -> None:
        """A number that waits for nothing more."""
        self._processes.pop(process, None)

    def close_process(self, process: int) -> None:
        """The client of a process is gone: its pipes are closed, its terminal hung up. It lives until Exited."""
        self._tell(process, protocol.control(FrameType.CLOSE, process))

    def stats(self) -> None:
        """Ask for Stats."""
        self._send(protocol.control(FrameType.STATS))

    def top(self) -> None:
        """Ask for Top."""
        self._send(protocol.control(FrameType.TOP))

    def freeze(self) -> None:
        """Have all processes stand still: Frozen answers. What else is sent waits until `thaw`."""
        self._send(protocol.control(FrameType.FREEZE))
        self._held = bytearray()

    def thaw(self, clone: Mapping[str, Any] | None = None) -> None:
        """Let them go on: Thawed answers. `clone` tells a guest that was restored who it is; time and random numbers
        are added. MachineError where it is too long.
        """
        fields: dict[str, Any] = {}
        if clone is not None:
            fresh = {"time_ns": time.time_ns(), "entropy": os.urandom(_ENTROPY).hex()}
            fields = {"clone": {**clone, **fresh}}
        frame = protocol.control(FrameType.THAW, **fields)
        if len(frame.payload) > CONTROL_LIMIT:
            raise MachineError(f"the names and addresses of a clone take {len(frame.payload)} bytes: too many")
        held, self._held = self._held, None
        self._send(frame)
        if held:
            self._outgoing += held
            self.flush()

    def set_clock(self) -> None:
        """Tell the guest what time it is."""
        self._send(protocol.control(FrameType.HELLO, protocol=protocol.VERSION, time_ns=time.time_ns()))

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

    def _open(self, kind: FrameType, **fields: Any) -> int:
        if len(self._processes) > PROCESSES_LIMIT:
            raise MachineError(
                f"{PROCESSES_LIMIT} processes are started in the machine already", hint="wait until one has ended"
            )
        number = self._last + 1
        while number in self._processes or number > _LAST_NUMBER:
            number = number + 1 if number < _LAST_NUMBER else MAIN + 1
        frame = protocol.control(kind, number, **fields)
        if len(frame.payload) > CONTROL_LIMIT:
            raise MachineError(
                f"the command line, environment and paths are too long together: {len(frame.payload)} bytes",
                hint=f"{CONTROL_LIMIT} bytes is the limit; pass large values as files or on standard input",
            )
        self._send(frame)
        self._processes[number] = _Process()
        self._last = number
        return number

    def _tell(self, process: int, frame: Frame) -> None:
        """Nothing is said to a process that is gone."""
        if process in self._processes:
            self._send(frame)

    def _send(self, frame: Frame) -> None:
        if self._closed:
            return
        if len(self._outgoing) + len(self._held or b"") > _QUEUE_LIMIT:
            raise MachineError(
                "the guest does not read its agent channel",
                hint="its kernel hangs or has panicked: see its console, and stop the machine",
            )
        if self._held is not None:
            self._held += frame.encode()
            return
        self._outgoing += frame.encode()
        self.flush()
