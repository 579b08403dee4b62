"""`logs`, `stop`, `restart`, `kill`, `wait`, `rm`, `rename`, `port`: what is done with machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from firekiln.errors import ConflictError, ContainerNotFoundError, FirekilnError, UsageError
from firekiln.machine.machine import Machine
from firekiln.machine.supervision.state import State


@click.command
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, to the machine's end.")
@click.option("-n", "--tail", default="all", metavar="LINES", help="So many lines from the end.  [default: all]")
@click.option("--since", metavar="WHEN", help="Only what was written since then: 10m, or a time.")
@click.option("--until", metavar="WHEN", help="Only what was written before that.")
@click.option("-t", "--timestamps", is_flag=True, help="Show when each line was written.")
@click.option("--details", is_flag=True, help="As Docker without log options: a blank in front of each line.")
@click.argument("machine")
@click.pass_context
def logs(  # noqa: PLR0917 - click passes them by keyword
    ctx: click.Context,
    follow: bool,
    tail: str,
    since: str | None,
    until: str | None,
    timestamps: bool,
    details: bool,
    machine: str,
) -> None:
    """Print what a machine's process wrote."""
    # Docker takes anything that is no number for "all"; a slip of the finger should not print a gigabyte.
    if tail != "all" and not tail.lstrip("-").isdecimal():
        raise UsageError(f"--tail {tail}: a number of lines, or all")
    number = None if tail == "all" or tail.startswith("-") else int(tail)
    begin, end = _moment(since, "--since"), _moment(until, "--until")
    found = Machine.find(machine_state(ctx), machine)
    if not found.settings.log.is_kept:
        raise FirekilnError("configured logging driver does not support reading", hint="it was made with --log-driver")
    for line in found.logs(tail=number, follow=follow):
        if end and line.time > end:
            return
        if not begin or line.time >= begin:
            text = f" {line.text}" if details else line.text
            click.echo(f"{line.time} {text}" if timestamps else text, nl=False, err=line.stream == "stderr")


def _moment(text: str | None, option: str) -> str:
    """As lines of the log have it, so that they can be compared as texts; "" for None."""
    if text is None:
        return ""
    from firekiln.cli.moments import parse_moment  # noqa: PLC0415 - imported when used
    from firekiln.machine.supervision.log import timestamp  # noqa: PLC0415 - ditto

    return timestamp(parse_moment(text, option))


@click.command
@click.option(
    "-t", "--time", "--timeout", "timeout", type=int, metavar="SECONDS", help="How long to wait before killing."
)
@click.option("-s", "--signal", "word", metavar="SIGNAL", help="In place of the machine's stop signal.")
@click.argument("machines", nargs=-1, required=True)
@click.pass_context
def stop(ctx: click.Context, timeout: int | None, word: str | None, machines: Sequence[str]) -> None:
    """Stop machines, by force after a time-out."""
    number = _signal(word) if word else None
    each(ctx, machines, lambda machine: machine.stop(timeout, signal=number))


@click.command
@click.option(
    "-t", "--time", "--timeout", "timeout", type=int, metavar="SECONDS", help="How long to wait before killing."
)
@click.option("-s", "--signal", "word", metavar="SIGNAL", help="In place of the machine's stop signal.")
@click.argument("machines", nargs=-1, required=True)
@click.pass_context
def restart(ctx: click.Context, timeout: int | None, word: str | None, machines: Sequence[str]) -> None:
    """Stop machines and boot them again."""
    number = _signal(word) if word else None
    each(ctx, machines, lambda machine: machine.restart(timeout, signal=number))


@click.command
@click.argument("machine")
@click.argument("name")
@click.pass_context
def rename(ctx: click.Context, machine: str, name: str) -> None:
    """Give a machine another name."""
    found = Machine.find(machine_state(ctx), machine)
    name = name.removeprefix("/")
    if name == found.name:
        raise FirekilnError("Renaming a container with the same name as its current name")
    with client_failures():
        found.rename(name)


@click.command
@click.option("-s", "--signal", "word", default="KILL", metavar="SIGNAL", help="Which signal.  [default: KILL]")
@click.argument("machines", nargs=-1, required=True)
@click.pass_context
def kill(ctx: click.Context, word: str, machines: Sequence[str]) -> None:
    """Send the processes of machines a signal."""
    number = _signal(word)
    each(ctx, machines, lambda machine: machine.kill(number))


def _signal(word: str) -> int:
    from firekiln.machine.signals import signal_number  # noqa: PLC0415 - imported when used

    with client_failures():
        return signal_number(word)


@click.command
@click.argument("machines", nargs=-1, required=True)
@click.pass_context
def pause(ctx: click.Context, machines: Sequence[str]) -> None:
    """Have machines stand still: their VMMs are stopped."""
    each(ctx, machines, Machine.pause)


@click.command
@click.argument("machines", nargs=-1, required=True)
@click.pass_context
def unpause(ctx: click.Context, machines: Sequence[str]) -> None:
    """Have paused machines go on."""
    each(ctx, machines, Machine.unpause)


@click.command
@click.argument("machines", nargs=-1, required=True)
@click.pass_context
def wait(ctx: click.Context, machines: Sequence[str]) -> None:
    """Wait for machines to end; print their exit statuses."""
    each(ctx, machines, lambda machine: machine.wait(), echo=False)


@click.command
@click.option("-f", "--force", is_flag=True, help="Also machines that run: they are killed.")
@click.option("-v", "--volumes", is_flag=True, help="Their volumes without a name too.")
@click.argument("machines", nargs=-1, required=True)
@click.pass_context
def rm(ctx: click.Context, force: bool, volumes: bool, machines: Sequence[str]) -> None:
    """Remove machines and their disks."""
    each(ctx, machines, lambda machine: machine.remove(force=force, volumes=volumes), absent_is_error=not force)


@click.command
@click.argument("machine")
@click.argument("private", metavar="[PORT[/PROTO]]", required=False)
@click.pass_context
def port(ctx: click.Context, machine: str, private: str | None) -> None:
    """List where a machine's ports answer."""
    found = Machine.find(machine_state(ctx), machine)
    ports = found.ports if found.record.status in ("running", "paused") else ()
    if private is None:
        for item in ports:
            click.echo(f"{item.guest_port}/{item.protocol} -> {item.host_ip}:{item.host_port}")
        return
    wanted = private if "/" in private else f"{private}/tcp"
    published = [item for item in ports if f"{item.guest_port}/{item.protocol}" == wanted]
    if not published:
        raise FirekilnError(f"no public port '{wanted}' published for {machine}")
    for item in published:
        click.echo(f"{item.host_ip}:{item.host_port}")


@contextmanager
def client_failures() -> Iterator[None]:
    """Where Docker's client ends with 1: what it understood, and could not do. 125 are words that it doesn't know."""
    try:
        yield
    except (ConflictError, UsageError) as error:
        error.exit_status = FirekilnError.exit_status
        raise


def machine_state(ctx: click.Context) -> State:
    """The machines of the store, without those that are only there because their supervisor was killed."""
    from firekiln.machine.supervision.supervise import sweep  # noqa: PLC0415 - `exec` is to be quick
    from firekiln.store import Store  # noqa: PLC0415 - as above

    with Store.open(ctx.obj["root"]) as store:
        state = State(store.machines)
    sweep(state)
    return state


def each(
    ctx: click.Context,
    words: Sequence[str],
    action: Callable[[Machine], int | None],
    *,
    echo: bool = True,
    absent_is_error: bool = True,
) -> None:
    """Act on each machine, and go on after one that fails; the exit status is then 1."""
    state = machine_state(ctx)
    failed = False
    for word in words:
        try:
            result = action(Machine.find(state, word))
        except UsageError:
            raise
        except FirekilnError as error:
            failed = failed or absent_is_error or not isinstance(error, ContainerNotFoundError)
            click.echo(f"firekiln: {error}", err=True)
            if error.hint:
                click.echo(f"  hint: {error.hint}", err=True)
        else:
            click.echo(word if echo else result)
    ctx.exit(int(failed))
