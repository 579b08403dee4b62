"""One instruction after the other: what each does to its stage."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias, assert_never

from firekiln.build.graph import FileOp, Mkdir
from firekiln.build.plan import checks, metadata, names, paths
from firekiln.build.plan.copy import add, copy
from firekiln.build.plan.owners import parse_owner
from firekiln.build.plan.run import run
from firekiln.build.plan.state import Command, Planning, StageState
from firekiln.dockerfile import instructions as df


def dispatch(planning: Planning, state: StageState, command: Command) -> None:
    """Carry out `command` on `state`. DockerfileError, at the instruction, where it can't be."""
    instruction = command.instruction
    match instruction:
        case df.Run():
            run(planning, state, command, instruction)
        case df.Copy():
            copy(planning, state, command, instruction)
        case df.Add():
            add(planning, state, command, instruction)
        case df.Workdir():
            workdir(planning, state, command, instruction)
        case _:
            _metadata(planning, state, instruction)


def workdir(planning: Planning, state: StageState, command: Command, instruction: df.Workdir) -> None:
    """The directory is made, with its parents, for the user who works there."""
    path = planning.word(state, instruction.path, instruction.location)
    checks.working_directory(planning, state, instruction, path)
    state.workdir_set = True
    directory = paths.working_directory(state.working_dir, path)
    planning.spend(len(directory) // 4, instruction.location)
    state.config = replace(state.config, working_dir=directory)
    if directory == "/":
        state.commit(f"WORKDIR {directory}")
        return
    owner = parse_owner(state.config.user) if state.config.user else None
    title = names.file_step(planning, instruction.original, state.env)
    state.vertex = planning.vertex(
        FileOp(actions=(Mkdir(path=paths.clean(directory), owner=owner),)),
        (state.vertex,),
        name=names.numbered(state, title, on_build=command.on_build),
        stage=state.name,
        location=instruction.location,
    )
    state.commit(f"WORKDIR {directory}", state.vertex)


_Metadata: TypeAlias = (
    df.Arg
    | df.Env
    | df.Label
    | df.Maintainer
    | df.Cmd
    | df.Entrypoint
    | df.User
    | df.Expose
    | df.Volume
    | df.Shell
    | df.StopSignal
    | df.Healthcheck
    | df.OnBuild
)


def _metadata(planning: Planning, state: StageState, instruction: _Metadata) -> None:  # noqa: C901, PLR0912 - a case a kind
    match instruction:
        case df.Arg():
            metadata.arg(planning, state, instruction)
        case df.Env():
            metadata.env(planning, state, instruction)
        case df.Label():
            metadata.label(planning, state, instruction)
        case df.Maintainer():
            metadata.maintainer(planning, state, instruction)
        case df.Cmd():
            metadata.cmd(planning, state, instruction)
        case df.Entrypoint():
            metadata.entrypoint(planning, state, instruction)
        case df.User():
            metadata.user(planning, state, instruction)
        case df.Expose():
            metadata.expose(planning, state, instruction)
        case df.Volume():
            metadata.volume(planning, state, instruction)
        case df.Shell():
            metadata.shell(planning, state, instruction)
        case df.StopSignal():
            metadata.stop_signal(planning, state, instruction)
        case df.Healthcheck():
            metadata.healthcheck(planning, state, instruction)
        case df.OnBuild():
            metadata.on_build(planning, state, instruction)
        case _:
            assert_never(instruction)
