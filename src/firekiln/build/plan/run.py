"""RUN: a process on the stage's file system."""

from __future__ import annotations

from firekiln.build.graph import BindMount, ExecOp, InlineFile, Mount, Network, SshMount
from firekiln.build.plan import names
from firekiln.build.plan.mounts import plan_mounts
from firekiln.build.plan.state import Command, Planning, StageState
from firekiln.dockerfile.heredoc import Heredoc, parse_heredoc, run_script
from firekiln.dockerfile.instructions import Run
from firekiln.dockerfile.text import encode

SCRIPTS = "/dev/pipes"


def run(planning: Planning, state: StageState, command: Command, instruction: Run) -> None:
    if instruction.devices:
        raise planning.error(
            "RUN --device is not supported: a step has no devices of the host", instruction.location, span="--device"
        )
    characters = sum(map(len, state.env.values()))
    planning.spend(4 * (len(state.env) + len(state.args)) + characters // 20, instruction.location)
    args, scripts = _argv(state, instruction)
    mounted = plan_mounts(planning, state, command, instruction)
    title = names.run_step(planning, _title(instruction), {**state.env, **mounted.secret_env})
    op = ExecOp(
        args=args,
        cwd=state.working_dir,
        env=_env(state, mounted.mounts),
        user=state.config.user or None,
        mounts=(*scripts, *mounted.mounts),
        network=Network(instruction.network),
        insecure=instruction.security == "insecure",
        proxy_env=planning.proxy_env,
    )
    state.vertex = planning.vertex(
        op,
        (state.vertex, *mounted.inputs),
        name=names.numbered(state, title, on_build=command.on_build),
        stage=state.name,
        location=instruction.location,
        ignore_cache=state.ignore_cache,
    )
    state.commit(f"RUN {' '.join((*_build_args(state), *args))} # buildkit", state.vertex)


def _argv(state: StageState, instruction: Run) -> tuple[tuple[str, ...], tuple[BindMount, ...]]:
    """argv, and the folder of its script: a heredoc that begins with `#!` is a file in /dev/pipes for the step."""
    command = instruction.command
    if not command.shell:
        return command.args, ()
    line = " ".join(command.args)
    if not command.files:
        return state.shell(line), ()
    script = run_script(line, command.files)
    if not isinstance(script, Heredoc):
        return state.shell(script), ()
    file = InlineFile(name=script.name, data=encode(script.data), mode=0o755)
    return state.shell(f"{SCRIPTS}/{script.name}"), (BindMount(target=SCRIPTS, input=None, files=(file,)),)


def _env(state: StageState, mounts: tuple[Mount, ...]) -> tuple[str, ...]:
    env = dict(state.env)
    for mount in mounts:
        if isinstance(mount, SshMount):
            env.setdefault("SSH_AUTH_SOCK", mount.target)
    return tuple(f"{name}={value}" for name, value in env.items())


def _title(instruction: Run) -> str:
    command = instruction.command
    if command.files and parse_heredoc(" ".join(command.args)) is not None:
        return f"{instruction.original} ({names.heredoc_summary(command.files[0].content)})"
    return instruction.original


def _build_args(state: StageState) -> list[str]:
    """`|2 A=1 B=2`: the arguments that the step saw, each once, where it was first declared."""
    values = {name: state.env.get(name, value or "") for name, value in state.args}
    return [f"|{len(values)}", *(f"{name}={value}" for name, value in values.items())] if values else []
