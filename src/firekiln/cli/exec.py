"""`exec`, `attach` and `start`: this terminal, or these pipes, and a process of a machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from firekiln.cli import terminal
from firekiln.cli.flags import from_host, read_env_file
from firekiln.cli.machines import client_failures, each, machine_state
from firekiln.cli.quick import PROXIED
from firekiln.errors import FirekilnError, MachineError, UsageError
from firekiln.machine.machine import Machine, not_running
from firekiln.machine.supervision.state import RUNS, State
from firekiln.machine.supervision.stream import Stream

_NOT_STARTED = 126
"""Docker's status for an exec that is not to be: a user or directory that is not there."""


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass the standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the process a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Start it, and leave it alone.")
@click.option("--detach-keys", metavar="KEYS", help="Keys that leave it running.  [default: ctrl-p,ctrl-q]")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Read variables from a file.")
@click.option("-u", "--user", metavar="NAME|UID[:GROUP]", help="Run as this user.")
@click.option("-w", "--workdir", metavar="DIR", help="The working directory.")
@click.option("--privileged", is_flag=True, hidden=True)
@click.argument("machine")
@click.argument("argv", metavar="COMMAND [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def exec_(  # noqa: PLR0917 - click passes them by keyword
    ctx: click.Context,
    interactive: bool,
    tty: bool,
    detach: bool,
    detach_keys: str | None,
    env: Sequence[str],
    env_file: Sequence[str],
    user: str | None,
    workdir: str | None,
    privileged: bool,
    machine: str,
    argv: Sequence[str],
) -> None:
    """Run a command in a machine that runs. The exit status is the command's."""
    if privileged:
        raise UsageError("--privileged: a machine has a kernel of its own", hint="-u root has all rights there are")
    streams = terminal.streams(stdin=interactive and not detach, terminal=tty, keys=detach_keys)
    with client_failures():
        variables = [*(line for path in env_file for line in read_env_file(Path(path))), *map(from_host, env)]
        found = _running(ctx, machine)
    if workdir and not workdir.startswith("/"):
        error = UsageError("Cwd must be an absolute path", hint="give --workdir a path that starts with /")
        error.exit_status = _NOT_STARTED
        raise error
    stream = found.exec(
        *argv,
        env=[word for word in variables if "=" in word],
        user=user,
        working_dir=workdir,
        stdin=interactive and not detach,
        tty=terminal.size() if tty else None,
    )
    with stream:
        ctx.exit(_leave(stream) if detach else terminal.end(terminal.talk(stream, streams, signals=PROXIED)))


@click.command
@click.option("--detach-keys", metavar="KEYS", help="Keys that leave it running.  [default: ctrl-p,ctrl-q]")
@click.option("--no-stdin", is_flag=True, help="Do not pass the standard input on.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on to the process.")
@click.argument("machine")
@click.pass_context
def attach(ctx: click.Context, detach_keys: str | None, no_stdin: bool, sig_proxy: bool, machine: str) -> None:
    """See what a machine writes, and write what it reads."""
    found = Machine.find(machine_state(ctx), machine)
    if found.record.status not in RUNS:
        raise FirekilnError(
            "You cannot attach to a stopped container, start it first", hint=f"firekiln start -ai {machine}"
        )
    settings = found.settings
    stdin = settings.open_stdin and not no_stdin
    streams = terminal.streams(stdin=stdin, terminal=settings.tty, keys=detach_keys)
    with found.attach() as stream:
        ctx.exit(terminal.end(terminal.talk(stream, streams, signals=PROXIED if sig_proxy else ())))


@click.command
@click.option("-a", "--attach", "attached", is_flag=True, help="Attach to its output, and pass signals on.")
@click.option("-i", "--interactive", is_flag=True, help="Pass the standard input on.")
@click.option("--detach-keys", metavar="KEYS", help="Keys that leave it running.  [default: ctrl-p,ctrl-q]")
@click.argument("machines", nargs=-1, required=True)
@click.pass_context
def start(
    ctx: click.Context, attached: bool, interactive: bool, detach_keys: str | None, machines: Sequence[str]
) -> None:
    """Boot machines that were created, or have ended."""
    if not attached and not interactive:
        each(ctx, machines, Machine.start)
        return
    if len(machines) > 1:
        with client_failures():
            raise UsageError("you cannot start and attach multiple containers at once")
    found = Machine.find(machine_state(ctx), machines[0])
    settings = found.settings
    stdin = interactive and settings.open_stdin
    streams = terminal.streams(stdin=stdin, terminal=settings.tty, keys=detach_keys)
    stream = found.start_attached() or found.attach()
    with stream:
        try:
            outcome = terminal.talk(stream, streams, signals=PROXIED)
            if outcome == "detached":
                stream.detach()
        except MachineError as error:
            if error.exit_status <= 128:
                raise
            ctx.exit(error.exit_status)
    ctx.exit(terminal.end(outcome))


def _running(ctx: click.Context, word: str) -> Machine:
    """The machine, by a look at the list of machines alone: `exec` is to be quick. ConflictError where it is not up."""
    from firekiln.store.paths import store_root  # noqa: PLC0415 - imported when used

    state = State(store_root(ctx.obj["root"]) / "machines")
    if not state.folder.exists():
        state = machine_state(ctx)
    record = state.get(word)
    if record.status not in RUNS:
        raise not_running(record)
    return Machine(state, record.id)


def _leave(stream: Stream) -> int:
    """Wait until the process has started, and go."""
    if not stream.leave():
        raise FirekilnError("the machine has ended")
    return 0
