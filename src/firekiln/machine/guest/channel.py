"""What carries the frames between a host and PID 1 of its guest, as the machine document names it."""

from __future__ import annotations

from typing import TypeAlias

from firekiln.oci.config import Json
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialPort:
    """A virtio-serial port of that name (QEMU)."""

    name: str = "firekiln.agent"

    def to_json(self) -> dict[str, Json]:
        return {"type": "virtio-serial", "name": self.name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vsock:
    """The guest connects to this port of the host; Firecracker passes it on to the Unix socket `PATH_port`."""

    port: int = 1024

    def to_json(self) -> dict[str, Json]:
        return {"type": "vsock", "port": self.port}


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """No channel: the process has the console for its standard input and output, and nobody is told of its end."""

    def to_json(self) -> dict[str, Json]:
        return {"type": "console"}


Channel: TypeAlias = SerialPort | Vsock | Console
