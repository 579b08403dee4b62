"""`volume create|ls|inspect|rm|prune`: named volumes, in Docker's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from firekiln.cli.confirm import confirm
from firekiln.cli.images import raise_last
from firekiln.cli.table import human_size, print_table
from firekiln.cli.template import print_each, print_inspected
from firekiln.errors import ConflictError, FirekilnError, UsageError
from firekiln.machine.names import random_id
from firekiln.machine.volumes.drives import ANONYMOUS_LABEL, Volume, VolumeNotFoundError, Volumes
from firekiln.machine.volumes.use import VolumeUse, prune_volumes, remove_volume, volume_uses
from firekiln.store import Store

_filters = click.option("-f", "--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Only some of them.")


@click.group
def volume() -> None:
    """Volumes: drives that outlive their machines."""


@volume.command
@click.option("-d", "--driver", default="local", help="For Docker's sake: volumes are drives of this store.")
@click.option("--label", "labels", multiple=True, metavar="NAME[=VALUE]", help="Label it.")
@click.option("-o", "--opt", "options", multiple=True, metavar="size=SIZE", help="Its size.  [default: 10g]")
@click.argument("name", required=False)
@click.pass_obj
def create(obj: dict[str, Any], driver: str, labels: Sequence[str], options: Sequence[str], name: str | None) -> None:
    """Make a volume, empty until a machine first uses it. One that is there is left as it is."""
    if driver != "local":
        raise UsageError(f"there is no volume driver {driver}", hint="volumes are drives of this store: leave --driver")
    given = _pairs(labels)
    if name is None:
        name, given = random_id(), given | {ANONYMOUS_LABEL: ""}
    with Store.open(obj["root"]) as store:
        click.echo(Volumes(store).create(name, labels=given, options=_pairs(options)).name)


@volume.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Names only.")
@_filters
@click.option("--format", "style", metavar="FORMAT", default="table", help="table, json, or a template.")
@click.pass_obj
def list_volumes(obj: dict[str, Any], quiet: bool, filters: Sequence[str], style: str) -> None:
    """List volumes."""
    with Store.open(obj["root"]) as store:
        uses = [use for use in volume_uses(store) if all(_matches(use, text) for text in filters)]
    if quiet:
        for use in uses:
            click.echo(use.volume.name)
    elif style == "table":
        print_table(("DRIVER", "VOLUME NAME", "SIZE"), [_row(use) for use in uses])
    else:
        print_each(style, [_listed(use) for use in uses])


@volume.command
@click.option("-f", "--format", "style", metavar="FORMAT", help="json, or a template such as {{.Mountpoint}}.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def inspect(obj: dict[str, Any], style: str | None, names: Sequence[str]) -> None:
    """Show volumes as JSON."""
    found: list[dict[str, Any]] = []
    failed: list[FirekilnError] = []
    with Store.open(obj["root"]) as store:
        for name in names:
            try:
                found.append(_inspected(Volumes(store).get(name)))
            except VolumeNotFoundError as error:
                failed.append(error)
    print_inspected(style, found)
    raise_last(failed)


@volume.command
@click.option("-f", "--force", is_flag=True, help="No error if it is gone.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def rm(obj: dict[str, Any], force: bool, names: Sequence[str]) -> None:
    """Remove volumes and what is on them. One that a machine has is not removed."""
    failed: list[FirekilnError] = []
    with Store.open(obj["root"]) as store, store.making_room():
        for name in names:
            try:
                remove_volume(store, name, force=force)
                click.echo(name)
            except (VolumeNotFoundError, ConflictError) as error:
                failed.append(error)
    raise_last(failed)


@volume.command
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that have names.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--filter", "filters", multiple=True, metavar="label=NAME[=VALUE]", help="Only those with this label.")
@click.pass_obj
def prune(obj: dict[str, Any], everything: bool, force: bool, filters: Sequence[str]) -> None:
    """Remove volumes that no machine has: those without a name, with -a all."""
    unknown = [text for text in filters if text.partition("=")[0] not in ("label", "label!")]
    if unknown:
        raise UsageError(f"--filter {unknown[0]}: only label=NAME[=VALUE] and label!=… are known")

    def wanted(candidate: Volume) -> bool:
        use = VolumeUse(volume=candidate, machines=())
        return (everything or candidate.is_anonymous) and all(_matches(use, text) for text in filters)

    kind = "all" if everything else "anonymous"
    confirm(force, f"This will remove {kind} local volumes not used by at least one container.")
    with Store.open(obj["root"]) as store, store.making_room():
        removed = prune_volumes(store, wanted=wanted)
    if removed:
        click.echo("\n".join(["Deleted Volumes:", *(name for name, _ in removed), ""]))
    click.echo(f"Total reclaimed space: {human_size(sum(size for _, size in removed))}")


def _pairs(words: Iterable[str]) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _matches(use: VolumeUse, text: str) -> bool:
    """Whether a volume is what `--filter` asks for. UsageError."""
    key, _, value = text.partition("=")
    match key:
        case "name":
            return value in use.volume.name
        case "driver":
            return value == "local"
        case "dangling" if value.lower() in ("1", "true", "0", "false"):
            return (value.lower() in ("1", "true")) == (not use.machines)
        case "label":
            return _has_label(use.volume.labels, value)
        case "label!":
            return not _has_label(use.volume.labels, value)
    raise UsageError(f"invalid filter '{text}'", hint="name=, label=, driver= and dangling=true are known")


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def _row(use: VolumeUse) -> tuple[str, ...]:
    return "local", use.volume.name, human_size(use.volume.used)


def _listed(use: VolumeUse) -> dict[str, str]:
    return {
        "Availability": "N/A",
        "Driver": "local",
        "Group": "N/A",
        "Labels": ",".join(f"{name}={value}" for name, value in sorted(use.volume.labels.items())),
        "Links": str(len(use.machines)),
        "Mountpoint": str(use.volume.drive),
        "Name": use.volume.name,
        "Scope": "local",
        "Size": human_size(use.volume.used),
        "Status": "N/A",
    }


def _inspected(found: Volume) -> dict[str, Any]:
    created = datetime.fromtimestamp(found.created_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "CreatedAt": created,
        "Driver": "local",
        "Labels": dict(found.labels) or None,
        "Mountpoint": str(found.drive),
        "Name": found.name,
        "Options": dict(found.options) or None,
        "Scope": "local",
    }
