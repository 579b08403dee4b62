"""Frames of the agent protocol, version 1: the host's side of `guest/PROTOCOL.md`. Pure; no sockets.

A frame is a header of eight bytes, little-endian: u32 length of the payload (at most 64 KiB), u8 type, u8 flags
(0), u16 process; then the payload. Control frames carry a JSON object, data frames bytes as they are.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from firekiln.errors import MachineError

VERSION = 1
PAYLOAD_LIMIT = 1 << 16
CONTROL_LIMIT = 1 << 14
"""Bytes of a control frame's JSON, both ways."""
STDIN_WINDOW = 1 << 16
"""Bytes of standard input that the host may have under way before the guest grants more."""
OUTPUT_WINDOW = 1 << 18
"""Bytes of output that a process other than the main one may have under way before the host grants more."""
PROCESSES_LIMIT = 64
"""Processes beside the main one at once."""
MAIN = 1
"""The number of the machine's main process; 0 means the connection itself."""

_HEADER = struct.Struct("<IBBH")


class FrameType(enum.IntEnum):
    HELLO = 0x01
    PING = 0x02
    PONG = 0x03
    LOG = 0x04
    SHUTDOWN = 0x05
    FREEZE = 0x06
    THAW = 0x07
    STARTED = 0x11
    EXITED = 0x12
    FAILED = 0x13
    SIGNAL = 0x14
    STOP = 0x15
    HEALTH = 0x16
    EXEC = 0x17
    RESIZE = 0x18
    CLOSE = 0x19
    STDIN = 0x20
    STDOUT = 0x21
    STDERR = 0x22
    CREDIT = 0x23
    READ = 0x30
    WRITE = 0x31
    STAT = 0x32
    STATS = 0x33
    TOP = 0x34
    DETACH = 0x40
    """A client's farewell to the supervisor, which goes on: never sent to a guest."""
    DOCUMENT = 0x41
    STEP = 0x42
    READY = 0x43


class Frame(NamedTuple):
    """One frame. `type` is a plain number: types that this version does not know are the receiver's to skip."""

    type: int
    payload: bytes = b""
    process: int = 0

    def encode(self) -> bytes:
        assert len(self.payload) <= PAYLOAD_LIMIT
        return _HEADER.pack(len(self.payload), self.type, 0, self.process) + self.payload


def control(kind: FrameType, process: int = 0, **fields: Any) -> Frame:
    """A control frame whose payload is a JSON object of `fields`."""
    return Frame(kind, json.dumps(fields, separators=(",", ":")).encode("ascii"), process)


def parse_control(frame: Frame) -> Mapping[str, Any]:
    """The JSON object of a control frame that the guest sent. MachineError where it is none, or is too long."""
    if len(frame.payload) > CONTROL_LIMIT:
        raise broken(f"a control frame of {len(frame.payload)} bytes")
    try:
        value = json.loads(frame.payload.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise broken("a control frame that is no JSON") from None
    if not isinstance(value, dict):
        raise broken("a control frame that is no JSON object")
    return value


def broken(what: str) -> MachineError:
    return MachineError(
        f"the guest broke the agent protocol: {what}",
        hint="the guest's PID 1 and this program differ, or the guest is hostile; the machine should be stopped",
    )


class Decoder:
    """Cuts a byte stream into frames. Holds at most one incomplete frame, whatever the peer says of its length."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. MachineError for a header that announces too much."""
        self._buffer += data
        frames: list[Frame] = []
        position = 0
        while len(self._buffer) - position >= _HEADER.size:
            length, kind, _, process = _HEADER.unpack_from(self._buffer, position)
            if length > PAYLOAD_LIMIT:
                raise broken(f"a frame of {length} bytes is announced")
            end = position + _HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append(Frame(kind, bytes(self._buffer[position + _HEADER.size : end]), process))
            position = end
        del self._buffer[:position]
        return frames

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame held; not 0 at the stream's end means that it was cut."""
        return len(self._buffer)
