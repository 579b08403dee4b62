"""A client's end of a connection to a supervisor that carries frames: see `session`."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from firekiln.errors import MachineError
from firekiln.machine.guest.protocol import PAYLOAD_LIMIT, STDIN_WINDOW, Decoder, Frame, FrameType, parse_control
from firekiln.machine.guest.protocol import control as control_frame
from firekiln.machine.supervision import control

if TYPE_CHECKING:
    import os

_READ = 1 << 18


class Stream:
    """One connection. It owns the socket, which blocks."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._decoder = Decoder()
        self.stdin_room = STDIN_WINDOW

    @classmethod
    def open(cls, folder: str | os.PathLike[str], request: control.Message) -> Self | None:
        """A stream of what is asked of a machine's supervisor. None where none is there."""
        connection = control.connect(folder, request)
        return cls(connection) if connection is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> list[Frame] | None:
        """What has come, at least one byte; None at the end. Grants of input are taken in."""
        try:
            data = self._socket.recv(_READ)
        except OSError:
            data = b""
        if not data:
            return None
        frames = self._decoder.feed(data)
        for frame in frames:
            if frame.type == FrameType.CREDIT:
                self.stdin_room += int.from_bytes(frame.payload, "little")
        return frames

    def stdin(self, data: bytes) -> None:
        """Send input, at most `stdin_room` bytes; none is its end."""
        assert len(data) <= min(self.stdin_room, PAYLOAD_LIMIT)
        self.stdin_room -= len(data)
        self._send(Frame(FrameType.STDIN, data))

    def tell(self, kind: FrameType, **fields: Any) -> None:
        """Send a control frame."""
        self._send(control_frame(kind, **fields))

    def detach(self) -> None:
        """Leave what runs alone."""
        self._send(Frame(FrameType.DETACH))

    def leave(self) -> bool:
        """Wait until the process has started, or ended, and leave it alone. False where the supervisor went without it.

        Raises the MachineError with which the start failed.
        """
        while (frames := self.receive()) is not None:
            for frame in frames:
                if frame.type == FrameType.FAILED:
                    raise failure(frame)
                if frame.type in (FrameType.STARTED, FrameType.EXITED):
                    self.detach()
                    return True
        return False

    def _send(self, frame: Frame) -> None:
        try:
            self._socket.sendall(frame.encode())
        except (BrokenPipeError, ConnectionResetError):  # the end is to be read
            return


def failure(frame: Frame) -> MachineError:
    """The error that a FAILED frame of a supervisor tells."""
    fields = parse_control(frame)
    error = MachineError(str(fields["message"]), hint=fields.get("hint"))
    error.exit_status = int(fields["status"])
    return error
