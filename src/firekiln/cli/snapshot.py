"""`snapshot create|ls|inspect|rm|prune`: machines as they were at a moment, to start others from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from firekiln.cli.confirm import confirm
from firekiln.cli.images import raise_last
from firekiln.cli.table import human_duration, human_size, print_table
from firekiln.cli.template import print_each, print_inspected
from firekiln.errors import ConflictError, FirekilnError, UsageError
from firekiln.machine.machine import Machine
from firekiln.machine.snapshot.ready import await_ready
from firekiln.machine.snapshot.snapshots import Snapshot, SnapshotNotFoundError, Snapshots
from firekiln.machine.snapshot.take import check_source, take
from firekiln.machine.supervision.state import State
from firekiln.store import Store

_SHORT = 12


@click.group
def snapshot() -> None:
    """Snapshots of running machines, to start others from."""


@snapshot.command
@click.option("--when-healthy", is_flag=True, help="Wait until the machine is ready: healthy, or listening.")
@click.option("--timeout", type=float, default=300.0, metavar="SECONDS", help="How long to wait.  [default: 300]")
@click.argument("machine")
@click.argument("name", required=False)
@click.pass_obj
def create(obj: dict[str, Any], when_healthy: bool, timeout: float, machine: str, name: str | None) -> None:
    """Save MACHINE as it is now, as NAME (or the machine's name). It stands still for some tenths of a second."""
    with Store.open(obj["root"]) as store:
        state = State(store.machines)
        found = Machine.find(state, machine)
        check_source(store, found.settings)
        if when_healthy:
            await_ready(state, found, timeout=timeout)
        click.echo(take(store, found, name or found.name).name)


@snapshot.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Names only.")
@click.option("--format", "style", metavar="FORMAT", default="table", help="table, json, or a template.")
@click.pass_obj
def list_snapshots(obj: dict[str, Any], quiet: bool, style: str) -> None:
    """List snapshots, the youngest first."""
    with Store.open(obj["root"]) as store:
        rows = [_listed(item) for item in Snapshots(store).list()]
    if quiet:
        for row in rows:
            click.echo(row["Name"])
    elif style == "table":
        columns = ("Name", "Image", "Machine", "CreatedSince", "Size")
        heading = ("NAME", "IMAGE", "MACHINE", "CREATED", "SIZE")
        print_table(heading, [[row[column] for column in columns] for row in rows])
    else:
        print_each(style, rows)


@snapshot.command
@click.option("-f", "--format", "style", metavar="FORMAT", help="json, or a template such as {{.Size}}.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def inspect(obj: dict[str, Any], style: str | None, names: Sequence[str]) -> None:
    """Show snapshots as JSON."""
    failed: list[FirekilnError] = []
    found: list[dict[str, Any]] = []
    with Store.open(obj["root"]) as store:
        for name in names:
            try:
                found.append(_inspected(Snapshots(store).get(name)))
            except SnapshotNotFoundError as error:
                failed.append(error)
    print_inspected(style, found)
    raise_last(failed)


@snapshot.command
@click.option("-f", "--force", is_flag=True, help="No error if it is gone.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def rm(obj: dict[str, Any], force: bool, names: Sequence[str]) -> None:
    """Remove snapshots. Machines that were started from them go on."""
    failed: list[FirekilnError] = []
    with Store.open(obj["root"]) as store, store.making_room():
        for name in names:
            try:
                Snapshots(store).remove(name)
                click.echo(name)
            except SnapshotNotFoundError as error:
                if not force:
                    failed.append(error)
            except ConflictError as error:
                failed.append(error)
    raise_last(failed)


@snapshot.command
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that were made by `snapshot create`.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--filter", "filters", multiple=True, metavar="until=WHEN", help="Only what was made before WHEN.")
@click.pass_obj
def prune(obj: dict[str, Any], everything: bool, force: bool, filters: Sequence[str]) -> None:
    """Remove the snapshots of `run --warm`, and what is damaged; with -a all."""
    wanted = prunable(filters, everything=everything)
    confirm(force, f"This will remove all {'' if everything else 'automatic '}snapshots.")
    with Store.open(obj["root"]) as store, store.making_room():
        freed = Snapshots(store).prune(wanted)
    if freed:
        click.echo("\n".join(["Deleted Snapshots:", *freed, ""]))
    click.echo(f"Total reclaimed space: {human_size(sum(freed.values()))}")


def prunable(filters: Sequence[str], *, everything: bool) -> Callable[[Snapshot], bool]:
    """Which snapshots `prune` is to remove. UsageError."""
    from firekiln.cli.system import parse_until  # noqa: PLC0415 - `system` imports this module

    if any(not text.startswith("until=") for text in filters):
        raise UsageError(f"--filter {filters[0]}: only until=WHEN is known")
    until = parse_until(filters)

    def wanted(item: Snapshot) -> bool:
        return (everything or item.is_automatic) and (until is None or item.created_ns / 1e9 < until)

    return wanted


def _listed(item: Snapshot) -> dict[str, str]:
    return {
        "Name": item.name,
        "Image": item.image,
        "Machine": item.machine[:_SHORT],
        "CreatedAt": _moment(item),
        "CreatedSince": f"{human_duration(max(0.0, time.time() - item.created_ns / 1e9))} ago",
        "Size": human_size(item.size),
        "Automatic": "true" if item.is_automatic else "false",
        "Health": str(item.health.get("health", "")),
    }


def _inspected(item: Snapshot) -> dict[str, Any]:
    settings = item.decoded()
    return {
        "Name": item.name,
        "Created": _moment(item),
        "Image": item.image_digest,
        "ImageName": item.image,
        "Machine": item.machine,
        "Automatic": item.is_automatic,
        "Health": item.health.get("health", ""),
        "Memory": settings.spec.memory,
        "Cpus": settings.spec.vcpus,
        "Kernel": settings.kernel_digest,
        "Vmm": {"Accelerator": item.environment.accelerator, "Processor": item.environment.processor},
        "Size": item.size,
        "Files": {name: {"Size": kept.size, "Digest": kept.digest} for name, kept in item.files.items()},
        "Path": str(item.folder),
    }


def _moment(item: Snapshot) -> str:
    return datetime.fromtimestamp(item.created_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
