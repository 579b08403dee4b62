"""RUN --mount: the words of a mount, expanded, become the step's mounts and further inputs."""

from __future__ import annotations

import posixpath
from dataclasses import field
from typing import assert_never

from firekiln.build.graph import (
    BindMount,
    CacheMount,
    Mount,
    SecretMount,
    Sharing,
    SshMount,
    TmpfsMount,
    Vertex,
)
from firekiln.build.plan import paths
from firekiln.build.plan.copy import context
from firekiln.build.plan.state import Command, Planning, StageState
from firekiln.dockerfile import mounts as df
from firekiln.dockerfile.instructions import Run
from firekiln.errors import Location
from firekiln.values import dataclass

_AGENT = "/run/buildkit/ssh_agent"
_SECRETS = "/run/secrets"
_CACHE_MODE = 0o755
_SECRET_MODE = 0o400
_AGENT_MODE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """The mounts, parents before what lies in them, and the inputs after the step's root file system.

    `secret_env` are variables that hold secrets, with stars for values: for a log only.
    """

    mounts: tuple[Mount, ...] = ()
    inputs: tuple[Vertex | None, ...] = ()
    secret_env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a mount is asked for, and by what word."""

    planning: Planning
    state: StageState
    location: Location
    text: str

    def error(self, reason: str, *, hint: str | None = None) -> Exception:
        return self.planning.error(reason, self.location, span=self.text, hint=hint)

    def target(self, mount: df.Mount) -> str:
        target = paths.normal(mount.target, parent=self.state.working_dir)
        if target == "/":
            raise self.error('invalid mount target "/"', hint="give the mount a target below the root")
        return target


def plan_mounts(planning: Planning, state: StageState, command: Command, instruction: Run) -> Mounted:
    """All of an instruction's mounts. DockerfileError where one makes no sense, or reads a stage further down."""
    inputs: list[Vertex | None] = []
    mounts: list[Mount] = []
    secret_env: dict[str, str] = {}
    agents = 0
    for text, source in zip(instruction.mounts, command.sources, strict=True):
        place = _Place(planning=planning, state=state, location=instruction.location, text=text)
        mount = _parse(place)
        if source is not None and not source.planned:
            raise place.error(
                f'cannot mount from stage "{mount.source_stage}" to "{mount.target}", '
                "stage needs to be defined before current command"
            )
        match mount.type:
            case df.MountType.BIND:
                inputs.append(context(planning) if source is None else source.vertex)
                mounts.append(_bind(place, mount, len(inputs)))
            case df.MountType.CACHE:
                if source is not None:
                    inputs.append(source.vertex)
                mounts.append(_cache(place, mount, None if source is None else len(inputs)))
            case df.MountType.TMPFS:
                mounts.append(TmpfsMount(target=place.target(mount), size=mount.size))
            case df.MountType.SECRET:
                mounts.append(_secret(mount))
                if mount.env is not None:
                    secret_env[mount.env] = "****"
            case df.MountType.SSH:
                mounts.append(_ssh(place, mount, agents))
                agents += 1
            case _:
                assert_never(mount.type)
    return Mounted(mounts=tuple(sorted(mounts, key=_order)), inputs=tuple(inputs), secret_env=secret_env)


def _parse(place: _Place) -> df.Mount:
    try:
        return df.parse_mount(place.text, lambda value: place.planning.word(place.state, value, place.location))
    except ValueError as error:
        raise place.error(str(error)) from None


def _bind(place: _Place, mount: df.Mount, index: int) -> BindMount:
    return BindMount(
        target=place.target(mount), input=index, source=paths.join("/", mount.source), readonly=mount.readonly
    )


def _cache(place: _Place, mount: df.Mount, index: int | None) -> CacheMount:
    """A cache is named by its target unless it has an id. Owner and mode are those of a new, empty one's root.

    With a mode or an owner, what `from` holds is not copied, and with a `source`, mode and owner mean nothing: both
    as in BuildKit.
    """
    source = paths.join("/", mount.source)
    fresh = source == "/" and (mount.mode, mount.uid, mount.gid) != (None, None, None)
    return CacheMount(
        target=place.target(mount),
        id=mount.id or paths.clean(mount.target),
        sharing=Sharing(mount.sharing or df.ShareMode.SHARED),
        readonly=mount.readonly,
        input=None if fresh else index,
        source=source,
        mode=_CACHE_MODE if not fresh or mount.mode is None else mount.mode,
        uid=mount.uid or 0 if fresh else 0,
        gid=mount.gid or 0 if fresh else 0,
    )


def _secret(mount: df.Mount) -> SecretMount:
    name = mount.source or mount.id or posixpath.basename(mount.target.rstrip("/"))
    target = mount.target or None
    if target is None and mount.env is None:
        target = f"{_SECRETS}/{posixpath.basename(name.rstrip('/'))}"
    return SecretMount(
        id=name,
        target=target,
        env=mount.env,
        required=mount.required,
        mode=_SECRET_MODE if mount.mode is None else mount.mode,
        uid=mount.uid or 0,
        gid=mount.gid or 0,
    )


def _ssh(place: _Place, mount: df.Mount, number: int) -> SshMount:
    if mount.source:
        raise place.error("ssh does not support source")
    return SshMount(
        id=mount.id or "default",
        target=mount.target or f"{_AGENT}.{number}",
        required=mount.required,
        mode=_AGENT_MODE if mount.mode is None else mount.mode,
        uid=mount.uid or 0,
        gid=mount.gid or 0,
    )


def _order(mount: Mount) -> tuple[int, str]:
    """File systems by their targets, so that one can lie in another; what BuildKit puts on top of them after that."""
    match mount:
        case BindMount() | CacheMount() | TmpfsMount():
            return 0, mount.target
        case SecretMount():
            return 1, ""
        case SshMount():
            return 2, ""
