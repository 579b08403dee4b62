"""What a machine for steps is told: once, and for each step. `guest/PROTOCOL.md`, "Steps of a build". Pure."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from firekiln.errors import SandboxError
from firekiln.machine.guest.channel import Channel
from firekiln.machine.guest.contract import DOCUMENT_LIMIT, VERSION, Interface
from firekiln.machine.process import DEFAULT_PATH, Process, Rlimit
from firekiln.oci.config import Json
from firekiln.sandbox.limits import Limits
from firekiln.sandbox.step import Step
from firekiln.sandbox.surroundings import environment
from firekiln.values import dataclass

SCRATCH: Final = "scratch"
DELIVERY: Final = "delivery"
"""Serials of drives."""
_NOFILE: Final = Rlimit(name="nofile", soft=1024, hard=1_048_576)
"""As containerd 2 gives its containers; a soft limit in the millions makes some programs slow."""
_PERIOD_US: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsDocument:
    """The document of a machine that has no process of its own."""

    channel: Channel

    def encode(self) -> bytes:
        made: dict[str, Json] = {
            "version": VERSION,
            "time_ns": time.time_ns(),
            "channel": self.channel.to_json(),
            "steps": True,
        }
        return json.dumps(made).encode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """An EROFS file system that steps call by `number`: a drive, or `size` bytes of one from `offset` on.

    With `once` it is there for one step only.
    """

    number: int
    serial: str
    offset: int | None = None
    size: int = 0
    once: bool = False

    def to_json(self) -> dict[str, Json]:
        part: dict[str, Json] = {} if self.offset is None else {"offset": self.offset, "size": self.size}
        return {"number": self.number, "serial": self.serial, "once": self.once, **part}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMount:
    """An empty tmpfs of `size` bytes, 0 for the kernel's default."""

    target: str
    size: int

    def to_json(self) -> dict[str, Json]:
        return {"type": "tmpfs", "target": self.target, "size": self.size}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataMount:
    """A file in memory."""

    target: str
    data: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    readonly: bool = True

    def to_json(self) -> dict[str, Json]:
        return {
            "type": "file",
            "target": self.target,
            "base64": base64.b64encode(self.data).decode("ascii"),
            "mode": self.mode,
            "uid": self.uid,
            "gid": self.gid,
            "read_only": self.readonly,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PartMount:
    """`name` of what is attached as `part`; with `upper` writable, and then it may be `source` of that."""

    target: str
    part: int
    name: str
    upper: str | None = None
    source: str = ""
    readonly: bool = False

    def to_json(self) -> dict[str, Json]:
        made: dict[str, Json] = {"type": "part", "target": self.target, "part": self.part, "name": self.name}
        if self.upper is None:
            return made
        return {**made, "upper": self.upper, "source": self.source, "read_only": self.readonly}


GuestMount: TypeAlias = MemoryMount | DataMount | PartMount


def step_document(
    step: Step, *, layers: Sequence[int], mounts: Sequence[GuestMount], interfaces: Sequence[Interface], processes: int
) -> bytes:
    """The document of one step. `processes` is the most that it may have, 0 for any number.

    SandboxError where it is longer than the guest reads.
    """
    process = Process(
        argv=step.args,
        env=variables(step),
        user=step.user or "",
        cwd=step.cwd or "/",
        rlimits=_rlimits(step.limits),
    )
    made: Mapping[str, Any] = {
        "version": VERSION,
        "hostname": step.hostname,
        "time_ns": time.time_ns(),
        "network": {"interfaces": [interface.to_json() for interface in interfaces]},
        "process": process.to_json(),
        "step": {
            "layers": list(layers),
            "scratch": SCRATCH,
            "shm_size": step.limits.shm_size,
            "memory": step.limits.memory,
            "cpu_us": round(step.limits.cpus * _PERIOD_US),
            "pids": processes,
            "mounts": [mount.to_json() for mount in mounts],
        },
    }
    data = json.dumps(made, separators=(",", ":")).encode("ascii")
    if len(data) > DOCUMENT_LIMIT:
        raise SandboxError(
            f"the step's command line, environment and secrets are too long for a VM: {len(data)} bytes",
            hint=f"{DOCUMENT_LIMIT} bytes is the limit; pass large values as files",
        )
    return data


def variables(step: Step) -> tuple[str, ...]:
    """The variables, the last of a name counting, with PATH where it is missing; the guest adds HOME."""
    named = dict(entry.split("=", 1) for entry in environment(step) if "=" in entry[1:])
    named.setdefault("PATH", DEFAULT_PATH)
    return tuple(f"{name}={value}" for name, value in named.items())


def _rlimits(limits: Limits) -> tuple[Rlimit, ...]:
    def number(value: int) -> int | None:
        return None if value == -1 else value

    given = {one.name: Rlimit(name=one.name, soft=number(one.soft), hard=number(one.hard)) for one in limits.ulimits}
    return tuple({_NOFILE.name: _NOFILE, **given}.values())
