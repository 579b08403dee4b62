"""A step: one process on a stack of layers, as plain values. `build` asks for it, a Runner (`build/runner.py`) runs it.

The values lie here, below `build` and `machine`, because `sandbox` may import neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TypeAlias

from firekiln.rootfs.tree import Tree
from firekiln.sandbox.limits import Limits
from firekiln.values import dataclass

Output: TypeAlias = Callable[[int, bytes], None]
"""Receives what the step writes as it writes it: descriptor (1 or 2) and bytes. Called from one thread at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersMount:
    """The merged tree of some layers (EROFS files, lowest first), or `source` within it, at `target`.

    Writable ones get an upper side that is thrown away after the step.
    """

    target: str
    layers: tuple[Path, ...]
    source: str = "/"
    readonly: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeMount:
    """A Tree held in memory (the build context, a heredoc's script), materialised read-only at `target`."""

    target: str
    tree: Tree
    source: str = "/"
    readonly: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderMount:
    """A folder of the store, or `source` within it, writable unless `readonly`, at `target` (RUN --mount=type=cache).

    What is in it steps made: `source` is resolved as if the folder were the root.
    """

    target: str
    folder: Path
    source: str = "/"
    readonly: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchMount:
    """A fresh tmpfs of `size` bytes (0: the kernel's default) at `target`."""

    target: str
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMount:
    """`data` as a file at `target` on a tmpfs of its own (RUN --mount=type=secret); never on a disk."""

    target: str
    data: bytes = field(repr=False)
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketMount:
    """A Unix socket of the host at `target` (RUN --mount=type=ssh)."""

    target: str
    socket: Path
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


StepMount: TypeAlias = LayersMount | TreeMount | FolderMount | ScratchMount | FileMount | SocketMount


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One process to run on a stack of layers.

    `user` is Dockerfile's USER (name, number, `user:group`, None for root), resolved against the layers' own passwd
    and group as BuildKit does (an unknown name is an error, an unknown number is not, and has group 0 and HOME=/).
    `env` is complete but for HOME, which is added where it is missing, from passwd. `network` is default, none or host.
    `extra_hosts` maps names to addresses for /etc/hosts. `ca_bundle` is a file of the host, bound at a path of its own
    for the step only, with the usual variables pointing at it.
    """

    layers: tuple[Path, ...]
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str | None = None
    mounts: tuple[StepMount, ...] = ()
    network: str = "default"
    insecure: bool = False
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: Path | None = None
    hostname: str = "buildkitsandbox"
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a step ended: `status` as a shell says it (128 + n for signal n), and what it changed.

    `diff` is an overlay's upper side as a Tree: new and changed nodes, whiteouts, opaque directories. Its sources die
    with the context manager that yielded it. `out_of_memory`: a process was killed because of `limits.memory`.
    """

    status: int
    diff: Tree
    out_of_memory: bool = False
