"""`ps`, `logs`, `stop`, `kill`, `wait`, `rm`: the machines that were run."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import click

from firekiln.cli.table import human_duration, print_table
from firekiln.errors import FirekilnError, UsageError
from firekiln.machine.machine import Machine
from firekiln.machine.settings import Settings
from firekiln.machine.state import Record, State
from firekiln.store import Store

_COMMAND_WIDTH = 20
_SHORT_ID = 12


@click.command
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that do not run.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
@click.option("--no-trunc", is_flag=True, help="Ids and commands in full.")
@click.option("--format", "style", metavar="FORMAT", default="table", help="table or json.")
@click.pass_context
def ps(ctx: click.Context, everything: bool, quiet: bool, no_trunc: bool, style: str) -> None:
    """List machines."""
    if style not in ("table", "json"):
        raise UsageError(f"--format {style}: only table and json are supported yet")
    records = [record for record in _state(ctx).list() if everything or record.status == "running"]
    if quiet:
        for record in records:
            click.echo(record.id if no_trunc else record.id[:_SHORT_ID])
        return
    described = [describe(record, no_trunc=no_trunc) for record in records]
    if style == "json":
        for fields in described:
            click.echo(json.dumps(fields, ensure_ascii=False))
        return
    columns = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")
    heading = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")
    print_table(heading, [[fields[column] for column in columns] for fields in described])


@click.command
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, to the machine's end.")
@click.option("-n", "--tail", default="all", metavar="LINES", help="So many lines from the end.  [default: all]")
@click.option("-t", "--timestamps", is_flag=True, help="Show when each line was written.")
@click.argument("machine")
@click.pass_context
def logs(ctx: click.Context, follow: bool, tail: str, timestamps: bool, machine: str) -> None:
    """Print what a machine's process wrote."""
    # Docker takes anything that is no number for "all"; a slip of the finger should not print a gigabyte.
    if tail != "all" and not tail.lstrip("-").isdecimal():
        raise UsageError(f"--tail {tail}: a number of lines, or all")
    number = None if tail == "all" or tail.startswith("-") else int(tail)
    for line in Machine.find(_state(ctx), machine).logs(tail=number, follow=follow):
        click.echo(f"{line.time} {line.text}" if timestamps else line.text, nl=False, err=line.stream == "stderr")


@click.command
@click.option(
    "-t", "--time", "--timeout", "timeout", type=int, metavar="SECONDS", help="How long to wait before killing."
)
@click.argument("machines", nargs=-1, required=True)
@click.pass_context
def stop(ctx: click.Context, timeout: int | None, machines: Sequence[str]) -> None:
    """Stop machines, by force after a time-out."""
    _each(ctx, machines, lambda machine: machine.stop(timeout))


@click.command
@click.option("-s", "--signal", "word", default="KILL", metavar="SIGNAL", help="Which signal.  [default: KILL]")
@click.argument("machines", nargs=-1, required=True)
@click.pass_context
def kill(ctx: click.Context, word: str, machines: Sequence[str]) -> None:
    """Send the processes of machines a signal."""
    from firekiln.machine.contract import signal_number  # noqa: PLC0415 - imported when used

    number = signal_number(word)
    _each(ctx, machines, lambda machine: machine.kill(number))


@click.command
@click.argument("machines", nargs=-1, required=True)
@click.pass_context
def wait(ctx: click.Context, machines: Sequence[str]) -> None:
    """Wait for machines to end; print their exit statuses."""
    _each(ctx, machines, lambda machine: machine.wait(), echo=False)


@click.command
@click.option("-f", "--force", is_flag=True, help="Also machines that run: they are killed.")
@click.argument("machines", nargs=-1, required=True)
@click.pass_context
def rm(ctx: click.Context, force: bool, machines: Sequence[str]) -> None:
    """Remove machines and their disks."""
    _each(ctx, machines, lambda machine: machine.remove(force=force))


def describe(record: Record, *, no_trunc: bool = False) -> dict[str, str]:
    """A machine in the words of `docker ps`, by the names of its Go templates."""
    now = time.time()
    config = json.loads(record.config)
    command = shlex.join([*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])])
    if not no_trunc and len(command) > _COMMAND_WIDTH:
        command = command[: _COMMAND_WIDTH - 1] + "…"
    created = datetime.fromtimestamp(record.created_ns / 1e9).astimezone()
    return {
        "Command": f'"{command}"',
        "CreatedAt": f"{created:%Y-%m-%d %H:%M:%S %z %Z}",
        "ID": record.id if no_trunc else record.id[:_SHORT_ID],
        "Image": record.image,
        "Labels": ",".join(f"{key}={value}" for key, value in (config.get("Labels") or {}).items()),
        "Names": record.name,
        "Ports": _ports(record, config),
        "RunningFor": f"{human_duration(now - record.created_ns / 1e9)} ago",
        "State": record.status,
        "Status": _status(record, now),
    }


def _status(record: Record, now: float) -> str:
    match record.status:
        case "running":
            return f"Up {human_duration(now - record.started_ns / 1e9)}"
        case "exited":
            return f"Exited ({record.exit_status}) {human_duration(now - record.finished_ns / 1e9)} ago"
        case "created":
            return "Created"


def _ports(record: Record, config: dict[str, Any]) -> str:
    """Published ports, then those that the image exposes only; of a machine that does not run, none."""
    if record.status != "running":
        return ""
    network = Settings.decode(record.settings).spec.network
    published = network.ports if network else ()
    bound = {f"{port.guest_port}/{port.protocol}" for port in published}
    exposed = [port for port in config.get("ExposedPorts") or {} if port not in bound]
    return ", ".join([*map(str, published), *exposed])


def _state(ctx: click.Context) -> State:
    with Store.open(ctx.obj["root"]) as store:
        return State(store.machines)


def _each(
    ctx: click.Context, words: Sequence[str], action: Callable[[Machine], int | None], *, echo: bool = True
) -> None:
    """Act on each machine, and go on after one that fails; the exit status is then 1."""
    state = _state(ctx)
    failed = False
    for word in words:
        try:
            result = action(Machine.find(state, word))
        except UsageError:
            raise
        except FirekilnError as error:
            failed = True
            click.echo(f"firekiln: {error}", err=True)
            if error.hint:
                click.echo(f"  hint: {error.hint}", err=True)
        else:
            click.echo(word if echo else result)
    ctx.exit(int(failed))
