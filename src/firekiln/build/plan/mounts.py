"""RUN --mount: the words of a mount, expanded, become the step's mounts and further inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

from firekiln.build.graph import (
    Mount,
    Vertex,
)

_AGENT = "/run/buildkit/ssh_agent"
_SECRETS = "/run/secrets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """The mounts, parents before what lies in them, and the inputs after the step's root file system.

    `secret_env` are variables that hold secrets, with stars for values: for a log only.
    """

    mounts: tuple[Mount, ...] = ()
    inputs: tuple[Vertex | None, ...] = ()
    secret_env: dict[str, str] = field(default_factory=dict)
