"""What the runner asks of the spawner: one step as plain values, and the descriptors that go with it.

A request crosses a process border as JSON in a memory file (paths may hold any bytes: surrogates carry them), its
descriptors beside it. Both ends are the same version of this package; the form is private to it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final, TypeAlias

from firekiln.values import dataclass

DESCRIPTORS: Final = 253
"""Most descriptors in one message: SCM_MAX_FD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """An overlay of `layers` (numbers given to the spawner, lowest first), or `source` in it, at `target`.

    A writable one has its upper side in folder `upper` of the step's working area.
    """

    target: str
    layers: tuple[int, ...]
    source: str
    upper: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A mount made by the runner, the `descriptor`-th of the request's, or `source` within it, at `target`."""

    target: str
    descriptor: int
    source: str | None = None
    readonly: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """A fresh tmpfs of `size` bytes (0: half of the memory)."""

    target: str
    size: int


Mount: TypeAlias = Stack | Attached | Tmpfs
_KINDS: Final[dict[str, type[Mount]]] = {kind.__name__: kind for kind in (Stack, Attached, Tmpfs)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One step. Its first descriptors are fixed: the memory file, the step's socket, its stdout, stderr, working area.
    The last `groups` are those of control groups to join.

    `env` is complete but for HOME. `hosts` and `resolv_conf` are the contents of those files. `rlimits` are setrlimit's
    arguments. `pid_max` is the highest process id in the step (Linux 6.14 and later), 0 for the kernel's own.
    `rootless`: the spawner is root of a user namespace only.
    """

    layers: tuple[int, ...]
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    mounts: tuple[Mount, ...]
    private_network: bool
    insecure: bool
    hostname: str
    hosts: str
    resolv_conf: str
    shm_size: int
    rlimits: tuple[tuple[int, int, int], ...] = ()
    pid_max: int = 0
    groups: int = 0
    rootless: bool = False

    def encode(self) -> bytes:
        mounts = [[type(mount).__name__, asdict(mount)] for mount in self.mounts]
        return json.dumps({**asdict(self), "mounts": mounts}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Request:
        made: dict[str, Any] = json.loads(data)
        mounts = tuple(_KINDS[kind](**_frozen(fields)) for kind, fields in made.pop("mounts"))
        rlimits = tuple(tuple(row) for row in made.pop("rlimits"))
        return cls(mounts=mounts, rlimits=rlimits, **_frozen(made))


def _frozen(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stub:
    """A mount point that was made in the step's file system because the image has none.

    `made` are the paths that were made, parents first; `above` are the directories over them that were there, each
    with its mode, uid, gid and mtime in ns. All are bytes of the root's, as text by `os.fsdecode`, links resolved.
    """

    made: tuple[str, ...]
    above: tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a step's socket says, one message at a time. Exactly one of the three fields is set.

    `stubs` comes once before the step's program starts, `error` where it could not start, `status` at last and always:
    a shell's status of the process.
    """

    stubs: tuple[Stub, ...] | None = None
    error: str | None = None
    status: int | None = None

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Report:
        made: dict[str, Any] = json.loads(data)
        stubs = made.pop("stubs")
        if stubs is not None:
            stubs = tuple(
                Stub(made=tuple(stub["made"]), above=tuple(tuple(row) for row in stub["above"])) for stub in stubs
            )
        return cls(stubs=stubs, **made)
