"""Cache keys: what a step's result depends on, as one digest.

The key of a vertex is made of its operation, of the chains of what it stands on, and of the content that it reads.

In: every field of the operation but those below; the platform; `--network` and `--add-host`, which steps can tell; of
a file system below, the chain of the vertex that made it (a base image: the digests of its layers); of a context, a
URL or a repository, the content that is read, modes and link targets included. Out: the values of secrets, proxy
variables, the CA bundle, paths of the host, owners and times of context files, names and lines of the Dockerfile.

A COPY from a stage has two keys. The first, by the stage's chain, is known without its files; where that is unknown,
because the stage has changed, the second is made from the content that is copied: a stage that was built again to the
same files costs its users nothing.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from typing import Protocol

from firekiln.build.graph import BindMount, CacheMount, Copy, ExecOp, FileOp, Op
from firekiln.oci.config import Json
from firekiln.values import dataclass

_VERSION = 2
"""Goes up whenever what an operation does to its inputs changes."""

_UNKEYED = frozenset({"proxy_env"})


class Read(Protocol):
    """The digest of what a vertex reads of one of its inputs: `index` counts the inputs, `part` says what of it."""

    def __call__(self, index: int, part: Copy | BindMount | CacheMount, /) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What steps can tell of the build that they run in."""

    platform: str = ""
    network: str = "default"
    extra_hosts: Mapping[str, str] = field(default_factory=dict)


def chain_of(key: str, layers: Sequence[str]) -> str:
    """What users of a result are keyed by: how it was made, and what came of it (digests of layers)."""
    return _digest(["chain", key, *layers])


def chain_of_image(layers: Sequence[str]) -> str:
    """The chain of a base image: its layers, not its config, which reaches the steps by their operations."""
    return _digest(["image", *layers])


def chain_of_merge(chains: Sequence[str]) -> str:
    """The chain of the layers of several results, one on the other."""
    return _digest(["merge", *chains])


def vertex_key(op: Op, chains: Sequence[str | None], read: Read, surroundings: Surroundings) -> str:
    """The key of a FileOp or ExecOp. `chains` are those of the inputs: None is `scratch`.

    An input whose chain is "" is told by its content alone: `read` is called for each part of it that `op` reads.
    """
    inputs: list[Json] = []
    for index, chain in enumerate(chains):
        if index == 0 or chain is None or chain:
            inputs.append(None if isinstance(op, FileOp) and op.link and index == 0 else chain)
        else:
            inputs.append([read(index, part) for part in _parts(op, index)])
    about = [surroundings.platform]
    if isinstance(op, ExecOp):
        about += [surroundings.network, *(f"{name}={ip}" for name, ip in sorted(surroundings.extra_hosts.items()))]
    return _digest([_VERSION, _plain(op), inputs, list(about)])


def reads_content(op: Op) -> bool:
    """Whether `op` reads files of an input other than the file system that it stands on."""
    match op:
        case FileOp(actions=actions):
            return any(isinstance(action, Copy) and isinstance(action.source, int) for action in actions)
        case ExecOp(mounts=mounts):
            return any(isinstance(m, BindMount | CacheMount) and m.input is not None for m in mounts)
        case _:
            return False


def _parts(op: Op, index: int) -> list[Copy | BindMount | CacheMount]:
    match op:
        case FileOp(actions=actions):
            return [action for action in actions if isinstance(action, Copy) and action.source == index]
        case ExecOp(mounts=mounts):
            return [m for m in mounts if isinstance(m, BindMount | CacheMount) and m.input == index]
        case _:
            return []


def _plain(value: object) -> Json:
    """A value of the graph as JSON: dataclasses by name and field, bytes by their digest."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    assert is_dataclass(value), value
    known = {item.name: _plain(getattr(value, item.name)) for item in fields(value) if item.name not in _UNKEYED}
    return [type(value).__name__, known]


def _digest(document: Json) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
