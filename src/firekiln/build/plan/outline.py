"""What a Dockerfile offers to its caller: targets, and the arguments, secrets, agents and caches that one target uses.

BuildKit's `--call=outline` and `--call=targets` in one. Descriptions come from comments: `# NAME what it is for`.
"""

from __future__ import annotations

from collections.abc import Iterator

from firekiln.build.graph import CacheMount, ExecOp, Mount, SecretMount, Sharing, SshMount
from firekiln.build.plan.options import BaseConfigs, PlanOptions
from firekiln.build.plan.planner import Planned, plan_stages
from firekiln.build.plan.state import Planning, StageState
from firekiln.dockerfile.instructions import Arg, Dockerfile, Stage
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A stage. `name` is "" where only its number (`index`) names it; `base` is FROM's word, expanded."""

    index: int
    name: str
    base: str
    platform: str
    description: str
    default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """A build argument. `value` is its value in this build, by default or as given; None where it has none."""

    name: str
    value: str | None
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What `--secret id=…` or `--ssh id` should offer."""

    id: str
    required: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    id: str
    target: str
    sharing: Sharing


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """`target` and `description` are of the stage asked for; `targets` are all; the rest is what the target needs."""

    target: Target
    targets: tuple[Target, ...]
    args: tuple[Argument, ...]
    secrets: tuple[Secret, ...]
    ssh: tuple[Secret, ...]
    caches: tuple[Cache, ...]


def outline(dockerfile: Dockerfile, options: PlanOptions, base_configs: BaseConfigs) -> Outline:
    """Everything is listed once, in the file's order. Raises what `plan` raises."""
    planned = plan_stages(dockerfile, options, base_configs)
    mounts = list(_mounts(planned))
    targets = {state: target for state, target in _targets(planned)}  # noqa: C416 - states are told apart by identity
    return Outline(
        target=targets[planned.target],
        targets=tuple(targets.values()),
        args=tuple(_args(planned)),
        secrets=_secrets([mount for mount in mounts if isinstance(mount, SecretMount)]),
        ssh=_secrets([mount for mount in mounts if isinstance(mount, SshMount)]),
        caches=tuple(
            dict.fromkeys(
                Cache(id=mount.id, target=mount.target, sharing=mount.sharing)
                for mount in mounts
                if isinstance(mount, CacheMount)
            )
        ),
    )


def _targets(planned: Planned) -> Iterator[tuple[StageState, Target]]:
    stages = planned.planning.dockerfile.stages
    for state, stage in zip(planned.stages, stages, strict=False):  # behind the stages come images of COPY --from
        yield (
            state,
            Target(
                index=stage.index,
                name=stage.name,
                base=state.base_name,
                platform=stage.base.platform and str(state.platform or ""),
                description=stage.comment,
                default=stage is stages[-1],
            ),
        )


def _mounts(planned: Planned) -> Iterator[Mount]:
    for vertex in planned.planning.vertices.values():
        if isinstance(vertex.op, ExecOp):
            yield from vertex.op.mounts


def _secrets(mounts: list[SecretMount] | list[SshMount]) -> tuple[Secret, ...]:
    required = {mount.id: False for mount in mounts}
    for mount in mounts:
        required[mount.id] |= mount.required
    return tuple(Secret(id=name, required=required[name]) for name in required)


def _args(planned: Planned) -> Iterator[Argument]:
    """Those of the needed stages, and those above the first FROM that such a stage's FROM asks for."""
    planning = planned.planning
    states = [state for state in planned.stages if state in planned.needed and state.stage is not None]
    values: dict[str, str | None] = {name: planning.args.get(name) for name in _asked_by_from(planning, states)}
    for state in states:
        values |= {name: value for name, value in state.args if values.get(name) is None}
    descriptions = _descriptions(planning.dockerfile, [state.stage for state in states if state.stage is not None])
    for name, value in values.items():
        yield Argument(name=name, value=value, description=descriptions.get(name, ""))


def _asked_by_from(planning: Planning, states: list[StageState]) -> list[str]:
    """In the order of their declarations; an argument's default may ask for those above it."""
    asked: set[str] = set()
    for state in states:
        if state.stage is not None:
            base = state.stage.base
            asked |= planning.expansion(f"{base.image} {base.platform}", planning.args, base.location).used
    found: list[str] = []
    for instruction in reversed(planning.dockerfile.global_args):
        for item in reversed(instruction.args):
            if item.key in asked:
                found.insert(0, item.key)
                asked |= planning.expansion(item.value or "", planning.args, instruction.location).used
    return list(dict.fromkeys(found))


def _descriptions(dockerfile: Dockerfile, stages: list[Stage]) -> dict[str, str]:
    """The first description of each name."""
    in_stages = (item for stage in stages for item in stage.instructions if isinstance(item, Arg))
    found: dict[str, str] = {}
    for instruction in (*dockerfile.global_args, *in_stages):
        for item in instruction.args:
            if item.comment:
                found.setdefault(item.key, item.comment)
    return found
