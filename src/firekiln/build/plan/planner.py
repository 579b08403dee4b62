"""From a Dockerfile to the graph of what its target needs. Pure: no file is opened, no other clock or host is asked."""

from __future__ import annotations

from dataclasses import replace

from firekiln.build.graph import Plan, Vertex
from firekiln.build.plan.bases import enter, resolve
from firekiln.build.plan.dispatch import dispatch
from firekiln.build.plan.epoch import NAME as EPOCH
from firekiln.build.plan.epoch import resolve_epoch
from firekiln.build.plan.options import BaseConfigs, PlanOptions
from firekiln.build.plan.platformargs import is_builtin, predefined_args, proxy_env
from firekiln.build.plan.stages import Stages, build_stages, find_target, link_stages
from firekiln.build.plan.state import Planning, StageState
from firekiln.dockerfile import rules
from firekiln.dockerfile.instructions import Dockerfile
from firekiln.errors import DockerfileError, ReferenceFormatError
from firekiln.oci.reference import Reference
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """The stages of a file and what each reads, before any base image is asked for."""

    planning: Planning
    stages: Stages
    target: StageState


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """All that a plan is made of: every stage, and which of them are planned because the target needs them."""

    planning: Planning
    stages: Stages
    target: StageState
    needed: set[StageState]


def plan(dockerfile: Dockerfile, options: PlanOptions, base_configs: BaseConfigs) -> Plan:
    """The plan of `options.target`, with BuildKit's meaning of every instruction.

    DockerfileError where the file, the arguments and the target make no sense together; what `base_configs` raises;
    UsageError where a named context is none.
    """
    planned = plan_stages(dockerfile, options, base_configs)
    return _finish(planned.planning, planned.target)


def plan_stages(dockerfile: Dockerfile, options: PlanOptions, base_configs: BaseConfigs) -> Planned:
    """`plan`, before the target's part is taken out of it."""
    linked = link(dockerfile, options, base_configs)
    planning, stages, target = linked.planning, linked.stages, linked.target
    wanted = stages.states[: len(dockerfile.stages)] if options.all_stages else [target]
    needed = resolve(planning, stages, wanted)
    _dispatch(planning, stages, needed)
    return Planned(planning=planning, stages=stages, target=target, needed=needed)


def link(dockerfile: Dockerfile, options: PlanOptions, base_configs: BaseConfigs) -> Linked:
    """As far as a plan is known without the base images. DockerfileError."""
    platform = options.platform or options.build_platform
    stage = options.target or (dockerfile.stages[-1].name if dockerfile.stages else "")
    predefined = predefined_args(
        build=options.build_platform, target=platform, stage=stage, overrides=options.build_args
    )
    planning = Planning(
        dockerfile=dockerfile,
        options=options,
        base_configs=base_configs,
        platform=platform,
        args=dict(predefined),
        build_args=dict(options.build_args),
        proxy_env=proxy_env(options.build_args),
    )
    _report_empty_defaults(planning, predefined)
    _declare_global(planning, planning.args, use_build_args=True)
    planning.epoch = resolve_epoch(planning)
    stages = build_stages(planning)
    target = find_target(planning, stages)
    link_stages(planning, stages)
    return Linked(planning=planning, stages=stages, target=target)


def _declare_global(planning: Planning, args: dict[str, str], *, use_build_args: bool) -> None:
    """ARG above the first FROM: each sees those before it."""
    build_args = planning.build_args if use_build_args else {}
    for instruction in planning.dockerfile.global_args:
        for item in instruction.args:
            planning.declared.add(item.key)
            if item.key in build_args:
                args[item.key] = build_args[item.key]
            elif item.value is not None:
                args[item.key] = planning.expansion(item.value, args, instruction.location).text


def _report_empty_defaults(planning: Planning, predefined: dict[str, str]) -> None:
    """Warn where FROM makes sense only with build arguments."""
    args = dict(predefined)
    try:
        _declare_global(planning, args, use_build_args=False)
        for stage in planning.dockerfile.stages:
            name = planning.expansion(stage.base.image, args, stage.location).text
            if not _is_reference(name):
                message = f"without build arguments, FROM {stage.base.image} names no image"
                planning.warn(rules.INVALID_DEFAULT_ARG_IN_FROM.warn(message, stage.location, span=stage.base.image))
    except DockerfileError:
        return  # the plan itself is about to meet it, if it matters


def _is_reference(name: str) -> bool:
    try:
        Reference.parse(name)
    except ReferenceFormatError:
        return False
    return True


def _dispatch(planning: Planning, stages: Stages, needed: set[StageState]) -> None:
    for state in stages:
        if state not in needed or state.planned:
            continue
        enter(planning, state)
        for command in state.commands:
            dispatch(planning, state, command)
        state.planned = True


def _finish(planning: Planning, target: StageState) -> Plan:
    options = planning.options
    config = replace(target.config, labels={**target.config.labels, **options.labels})
    platform = planning.platform
    if options.platform is None and target.image is not None:
        platform = target.image.platform
    _report_unconsumed(planning)
    return Plan(
        target=target.vertex,
        config=config,
        platform=platform,
        vertices=tuple(_in_order(target.vertex)),
        base=target.image,
        author=target.author,
        history=tuple(target.history),
        warnings=tuple(planning.warnings),
        notices=tuple(planning.notices),
        source_date_epoch=planning.epoch,
    )


def _report_unconsumed(planning: Planning) -> None:
    known = planning.declared | set(planning.args) | {EPOCH}
    for name in sorted(planning.options.build_args):
        if name not in known and not is_builtin(name):
            planning.notices.append(f"--build-arg {name}: no ARG of the stages that are built declares it")


def _in_order(target: Vertex | None) -> list[Vertex]:
    """Everything below `target`, inputs first and in their order, each once; no recursion limit."""
    done: dict[Vertex, None] = {}
    stack: list[tuple[Vertex | None, bool]] = [(target, False)]
    while stack:
        vertex, expanded = stack.pop()
        if vertex is None or vertex in done:
            continue
        if expanded:
            done[vertex] = None
        else:
            stack.append((vertex, True))
            stack += [(item, False) for item in reversed(vertex.inputs)]
    return list(done)
