"""The stages of a file: their names and bases, what each needs of the others, and which the target needs at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from firekiln.build.plan import checks
from firekiln.build.plan.state import SCRATCH, Command, Planning, StageState
from firekiln.dockerfile.instructions import Add, Copy, Instruction, Run, Stage, Workdir
from firekiln.dockerfile.mounts import mount_from
from firekiln.dockerfile.suggestions import did_you_mean
from firekiln.errors import DockerfileError, Location
from firekiln.oci.platform import Platform

_STEPS = (Add, Copy, Run, Workdir)


class Stages:
    """All stages in order, and behind them the images that COPY --from and mounts name; found by name or number."""

    def __init__(self) -> None:
        self.states: list[StageState] = []
        self._by_name: dict[str, StageState] = {}
        self._known: set[StageState] = set()

    def __iter__(self) -> Iterator[StageState]:
        return iter(self.states)

    def __contains__(self, state: StageState) -> bool:
        return state in self._known

    def __len__(self) -> int:
        return len(self.states)

    def add(self, state: StageState) -> None:
        """FROM finds only stages above it; a name given twice means the later stage from then on."""
        if state.named_context is None:
            state.base = self._by_name.get(state.base_name)
        self.states.append(state)
        self._known.add(state)
        if state.stage is not None and state.stage.name:
            self._by_name[state.stage.name] = state

    def named(self, name: str) -> StageState | None:
        return self._by_name.get(name.lower())

    def names(self) -> list[str]:
        return [state.name for state in self.states if state.name]


def build_stages(planning: Planning) -> Stages:
    """The file's stages, FROM's words expanded, linked to their bases."""
    stages = Stages()
    for stage in planning.dockerfile.stages:
        state = _from(planning, stage)
        stages.add(state)
        own = state.base is None and state.base_name != SCRATCH
        state.steps = own + sum(isinstance(instruction, _STEPS) for instruction in stage.instructions)
    return stages


def find_target(planning: Planning, stages: Stages) -> StageState:
    """The stage to build: by name, else by number, else the last."""
    wanted = planning.options.target
    if not wanted:
        return stages.states[-1]
    found = stages.named(wanted)
    if found is None and re.fullmatch(r"\d{1,9}", wanted, re.ASCII) and int(wanted) < len(stages):
        found = stages.states[int(wanted)]
    if found is None:
        hint = did_you_mean(wanted, stages.names())
        raise DockerfileError(
            f'target stage "{wanted}" could not be found{hint}',
            hint="stages: " + ", ".join(stages.names()) if stages.names() else None,
        )
    return found


def link_stages(planning: Planning, stages: Stages) -> None:
    """Find out what every instruction reads. DockerfileError where stages need each other in a circle."""
    for state in list(stages):
        if state.stage is not None and state.named_context is None:
            state.commands = [command_of(planning, stages, state, item) for item in state.stage.instructions]
    _refuse_circles(planning, stages)
    if len(stages) == 1:
        stages.states[0].name = ""


def command_of(
    planning: Planning,
    stages: Stages,
    state: StageState,
    instruction: Instruction,
    *,
    on_build: bool = False,
) -> Command:
    """The instruction with its sources, which `state` needs from now on; images that they name join the stages."""
    sources: tuple[StageState | None, ...] = ()
    if isinstance(instruction, Copy) and instruction.source:
        sources = (_copy_source(planning, stages, instruction),)
    elif isinstance(instruction, Run):
        sources = tuple(_mount_source(stages, mount, instruction.location) for mount in instruction.mounts)
    for source in sources:
        if source is None:
            continue
        state.needs[source] = instruction.location
        if source.stage is None and source not in stages:
            stages.add(source)
    return Command(instruction=instruction, sources=sources, on_build=on_build)


def reachable(targets: Iterable[StageState]) -> set[StageState]:
    """The targets and all that they stand on or read from, near or far."""
    found: set[StageState] = set()
    waiting = list(targets)
    while waiting:
        state = waiting.pop()
        if state in found:
            continue
        found.add(state)
        waiting += state.needs
        if state.base is not None:
            waiting.append(state.base)
    return found


def _from(planning: Planning, stage: Stage) -> StageState:
    base = planning.expansion(stage.base.image, planning.args, stage.location)
    checks.undeclared(planning, base, stage)
    if not base.text:
        raise planning.error(
            f"base name ({stage.base.image}) should not be blank",
            stage.location,
            span=stage.base.image,
            hint="an ARG above the first FROM, or --build-arg, gives it a value",
        )
    no_cache = planning.options.no_cache
    return StageState(
        base_name=base.text,
        location=stage.location,
        stage=stage,
        name=stage.name or f"stage-{stage.index}",
        named_context=_stand_in(planning, stage),
        platform=_platform(planning, stage),
        ignore_cache=no_cache if isinstance(no_cache, bool) else stage.name in no_cache,
    )


def _stand_in(planning: Planning, stage: Stage) -> str | None:
    """What the stage is replaced by."""
    prebuilt = planning.options.prebuilt.get(stage.index)
    return prebuilt or (planning.options.contexts.get(stage.name) if stage.name else None)


def _platform(planning: Planning, stage: Stage) -> Platform | None:
    written = stage.base.platform
    if not written:
        return None
    made = planning.expansion(written, planning.args, stage.location)
    checks.undeclared(planning, made, stage)
    checks.platform(planning, made, stage)
    hint = "".join(did_you_mean(name, planning.args) for name in sorted(made.unset)[:1])
    if not made.text:
        raise planning.error(f"empty platform value from expression {written}{hint}", stage.location, span=written)
    try:
        return Platform.parse(made.text)
    except ValueError as error:
        raise planning.error(
            f"failed to parse platform {written}: {error}{hint}", stage.location, span=written
        ) from None


def _copy_source(planning: Planning, stages: Stages, instruction: Copy) -> StageState:
    name, where = instruction.source, instruction.location
    if planning.expansion(name, {}, where).text != name:
        raise planning.error(
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope "
            "as a workaround",
            where,
            span=f"--from={name}",
            hint="FROM $NAME AS source above, and COPY --from=source here",
        )
    if not re.fullmatch(r"[+-]?\d{1,9}", name, re.ASCII):
        return stages.named(name) or StageState(base_name=name, location=where)
    if not 0 <= int(name) < len(stages):
        raise planning.error(f"invalid stage index {int(name)}", where, span=f"--from={name}")
    return stages.states[int(name)]


def _mount_source(stages: Stages, mount: str, where: Location) -> StageState | None:
    name = mount_from(mount)
    if not name:
        return None
    return stages.named(name) or StageState(base_name=name, location=where)


def _refuse_circles(planning: Planning, stages: Stages) -> None:
    done: set[StageState] = set()
    for state in stages:
        circle = _circle(state, done)
        if circle is not None:
            raise planning.error(f"circular dependency detected on stage: {state.name}", circle)


def _circle(start: StageState, done: set[StageState]) -> Location | None:
    """Where a stage needs one that is waiting for it; depth first, without recursion. Only `needs` go forward."""
    if start in done:
        return None
    done.add(start)
    waiting = {start}
    stack = [(start, iter(start.needs.items()))]
    while stack:
        state, needs = stack[-1]
        for need, where in needs:
            if need in waiting:
                return where
            if need not in done:
                done.add(need)
                waiting.add(need)
                stack.append((need, iter(need.needs.items())))
                break
        else:
            waiting.discard(state)
            stack.pop()
    return None
