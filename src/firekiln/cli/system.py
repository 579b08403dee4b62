"""`system`, `builder` and `image prune`: what the store takes on the disk, and making it less, in Docker's words."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from firekiln import api
from firekiln.cli import archives, images
from firekiln.cli.confirm import confirm
from firekiln.cli.flags import parse_size
from firekiln.cli.table import human_duration, human_size, print_table
from firekiln.cli.template import print_each
from firekiln.dockerfile.durations import parse_duration
from firekiln.errors import StoreError, UsageError
from firekiln.machine.kernel import generic_kernels, kernels
from firekiln.machine.machine import Machine
from firekiln.machine.snapshot.snapshots import Snapshot, Snapshots
from firekiln.machine.supervision.state import Record, State
from firekiln.machine.supervision.supervise import sweep
from firekiln.machine.volumes.use import VolumeUse, prune_volumes, volume_uses
from firekiln.oci.reference import Reference
from firekiln.store import Store
from firekiln.store.prune import Pruned, prune_cache, prune_damaged, prune_images, prune_kernels
from firekiln.store.usage import CacheUse, FolderUse, ImageUse, Usage, folder_size, measure

_SHORT = 12
_COLUMNS = ("Type", "TotalCount", "Active", "Size", "Reclaimable")

_force = click.option("-f", "--force", is_flag=True, help="Do not ask.")
_filter = click.option(
    "--filter", "filters", multiple=True, metavar="until=WHEN", help="Only what was last used or made before WHEN."
)


@click.group
def system() -> None:
    """The store as a whole."""


@system.command
@click.option("-v", "--verbose", is_flag=True, help="Each image, machine, kernel and part of the build cache.")
@click.option("--format", "style", metavar="FORMAT", default="table", help="table, json, or a template.")
@click.pass_obj
def df(obj: dict[str, Any], verbose: bool, style: str) -> None:
    """Show what takes space."""
    with Store.open(obj["root"]) as store:
        usage = measure(store)
        machines = _machines(State(store.machines))
        volumes = volume_uses(store)
        snapshots = Snapshots(store).list()
        rows = [
            _images_row(usage),
            _machines_row(machines),
            _volumes_row(volumes),
            _snapshots_row(snapshots),
            _cache_row(usage),
            _kernels_row(usage, _newest_kernels(store.root)),
        ]
    if style != "table":
        print_each(style, rows)
    elif verbose:
        _print_all(usage, machines, volumes, snapshots)
    else:
        heading = ("TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE")
        print_table(heading, [[row[column] for column in _COLUMNS] for row in rows])


@system.command("prune")
@click.option("-a", "--all", "everything", is_flag=True, help="All that nothing uses, not only what has no name.")
@_force
@_filter
@click.option("--volumes", is_flag=True, help="Volumes without a name too.")
@click.pass_obj
def prune_system(obj: dict[str, Any], everything: bool, force: bool, filters: Sequence[str], volumes: bool) -> None:
    """Remove what is not used: stopped machines, images, build cache; with -a older kernels too."""
    until = parse_until(filters)
    if volumes and until is not None:
        raise UsageError('The "until" filter is not supported with "--volumes"')
    confirm(
        force,
        "This will remove:\n"
        "  - all stopped containers\n"
        "  - all snapshots of `run --warm`\n"
        + ("  - all anonymous volumes not used by at least one container\n" if volumes else "")
        + f"  - all {'images without at least one container associated to them' if everything else 'dangling images'}\n"
        f"  - {'all' if everything else 'unused'} build cache" + ("\n  - all unused kernels\n" if everything else "\n"),
    )
    with Store.open(obj["root"]) as store, store.making_room():
        stopped = remove_machines(State(store.machines), until)
        saved = Snapshots(store).prune(
            lambda item: item.is_automatic and (until is None or item.created_ns / 1e9 < until)
        )
        unused = prune_volumes(store, wanted=lambda volume: volume.is_anonymous) if volumes else []
        parts = [
            prune_images(store, everything=everything, until=until),
            prune_cache(store, everything=everything, until=until),
        ]
        if everything and until is None:
            parts += [prune_kernels(store, keep=_newest_kernels(store.root)), prune_damaged(store)]
        api.clean(store)
    _print_deleted("Containers", stopped.deleted)
    _print_deleted("Snapshots", [*saved])
    _print_deleted("Volumes", [name for name, _ in unused])
    _report(*parts, freed=stopped.size + sum(size for _, size in unused) + sum(saved.values()))


@system.command
@click.pass_obj
def check(obj: dict[str, Any]) -> None:
    """Read all that the store keeps, and set aside what is damaged.

    What is set aside is made again by the next build, or said to be missing.
    """
    with Store.open(obj["root"]) as store:
        blobs = sorted(store.blobs.all(), key=lambda blob: blob.digest)
        damaged = [blob for blob in blobs if not store.blobs.is_intact(blob)]
        for blob in damaged:
            store.integrity.set_aside(blob.path)
            click.echo(f"damaged: {blob.digest}")
        lacking = store.images.damaged()
        for name, error in lacking.items():
            click.echo(f"{name}: {error}", err=True)
    if damaged or lacking:
        raise StoreError(
            f"{len(damaged)} of {len(blobs)} blobs are damaged, {len(lacking)} images can't be used",
            hint="build or pull those images again; the build cache heals itself",
        )
    click.echo(f"{len(blobs)} blobs are as they should be")


@click.group
def builder() -> None:
    """The build cache."""


@builder.command
@click.option("--format", "style", metavar="FORMAT", default="table", help="table, json, or a template.")
@click.pass_obj
def du(obj: dict[str, Any], style: str) -> None:
    """Show the parts of the build cache, those used longest ago first."""
    with Store.open(obj["root"]) as store:
        usage = measure(store)
    rows = [_cache_json(item) for item in sorted(usage.cache, key=lambda item: item.used)]
    if style != "table":
        print_each(style, rows)
        return
    columns = ("ID", "CacheType", "Reclaimable", "Size", "LastUsedSince")
    print_table(("ID", "TYPE", "RECLAIMABLE", "SIZE", "LAST ACCESSED"), [[row[c] for c in columns] for row in rows])
    click.echo(f"Reclaimable:\t{human_size(sum(i.size for i in usage.cache if not i.in_use and not i.shared))}")
    click.echo(f"Total:\t\t{human_size(sum(item.size for item in usage.cache))}")


@builder.command("prune")
@click.option("-a", "--all", "everything", is_flag=True, help="Also what belongs to images.")
@_force
@_filter
@click.option("--keep-storage", "--reserved-space", "--max-used-space", "keep", metavar="SIZE", help="Leave this much.")
@click.pass_obj
def prune_builder(obj: dict[str, Any], everything: bool, force: bool, filters: Sequence[str], keep: str | None) -> None:
    """Remove build cache, what was used longest ago first."""
    until = parse_until(filters)
    limit = parse_size(keep, "--keep-storage") if keep else None
    confirm(force, f"This will remove {'all' if everything else 'unused'} build cache.")
    with Store.open(obj["root"]) as store, store.making_room():
        pruned = prune_cache(store, everything=everything, until=until, keep=limit)
        api.clean(store)
    _report(pruned)


@click.group
def image() -> None:
    """Images."""


@image.command("prune")
@click.option("-a", "--all", "everything", is_flag=True, help="All that no machine uses, not only those without names.")
@_force
@_filter
@click.pass_obj
def prune_image(obj: dict[str, Any], everything: bool, force: bool, filters: Sequence[str]) -> None:
    """Remove images that nothing uses."""
    until = parse_until(filters)
    kind = "images without at least one container associated to them" if everything else "dangling images"
    confirm(force, f"This will remove all {kind}.")
    with Store.open(obj["root"]) as store, store.making_room():
        pruned = prune_images(store, everything=everything, until=until)
        api.clean(store)
    _report(pruned)


for _name, _command in {
    "history": images.history,
    "import": archives.import_,
    "inspect": images.inspect,
    "load": archives.load,
    "ls": images.images,
    "rm": images.rmi,
    "save": archives.save,
    "tag": images.tag,
}.items():
    image.add_command(_command, _name)


def parse_until(filters: Sequence[str]) -> float | None:
    """`until=24h`, `until=2026-01-31T12:00:00Z`, `until=1700000000`: the earliest, as Unix time. UsageError."""
    moments: list[float] = []
    for text in filters:
        name, _, value = text.partition("=")
        if name not in ("until", "unused-for") or not value:
            raise UsageError(f"--filter {text}: only until=WHEN is known", hint="until=24h, or a time")
        moments.append(_moment(value))
    return min(moments, default=None)


def _moment(text: str) -> float:
    try:
        return time.time() - parse_duration(text) / 1e9
    except ValueError:
        pass
    try:
        return float(text) if text.replace(".", "", 1).isdigit() else datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise UsageError(f"until={text}: neither a duration such as 24h nor a time") from error


def _machines(state: State) -> list[tuple[Record, int]]:
    """The machines, each with the bytes that its folder takes."""
    return [(record, folder_size(state.folder_of(record.id))) for record in state.list()]


def remove_machines(state: State, until: float | None, *, wanted: Callable[[Record], bool] = lambda _: True) -> Pruned:
    """Remove those that do not run, and are older than `until` (Unix time), and wanted."""
    sweep(state)
    deleted: list[str] = []
    freed = 0
    for record, size in _machines(state):
        if state.is_alive(record.id) or (until is not None and record.created_ns / 1e9 >= until):
            continue
        if not wanted(record):
            continue
        Machine(state, record.id).remove()
        deleted.append(record.id)
        freed += size
    return Pruned(deleted=tuple(deleted), size=freed)


def _newest_kernels(root: Path) -> list[str]:
    """The digests of the newest kernel of each kind."""
    newest: dict[tuple[str, str], str] = {}
    for kernel in (*kernels(root), *generic_kernels(root)):
        newest.setdefault((kernel.kind, kernel.architecture), kernel.digest)
    return list(newest.values())


def _row(kind: str, total: int, active: int, size: int, reclaimable: int) -> dict[str, str]:
    share = f" ({100 * reclaimable // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human_size(size),
        "Reclaimable": human_size(reclaimable) + share,
    }


def _images_row(usage: Usage) -> dict[str, str]:
    active = sum(item.in_use for item in usage.images)
    return _row("Images", len(usage.images), active, usage.images_size, usage.images_reclaimable)


def _machines_row(machines: Sequence[tuple[Record, int]]) -> dict[str, str]:
    running = [size for record, size in machines if record.status in ("running", "paused")]
    size = sum(size for _, size in machines)
    return _row("Containers", len(machines), len(running), size, size - sum(running))


def _volumes_row(volumes: Sequence[VolumeUse]) -> dict[str, str]:
    idle = sum(use.volume.used for use in volumes if not use.machines)
    size = sum(use.volume.used for use in volumes)
    return _row("Local Volumes", len(volumes), sum(bool(use.machines) for use in volumes), size, idle)


def _snapshots_row(snapshots: Sequence[Snapshot]) -> dict[str, str]:
    size = sum(item.size for item in snapshots)
    idle = sum(item.size for item in snapshots if item.is_automatic)
    return _row("Snapshots", len(snapshots), 0, size, idle)


def _cache_row(usage: Usage) -> dict[str, str]:
    own = [item for item in usage.cache if not item.shared]
    active = sum(item.in_use for item in usage.cache)
    reclaimable = sum(item.size for item in own if not item.in_use)
    return _row("Build Cache", len(usage.cache), active, sum(item.size for item in own), reclaimable)


def _kernels_row(usage: Usage, newest: Sequence[str]) -> dict[str, str]:
    size = sum(item.size for item in usage.kernels)
    idle = [item for item in usage.kernels if not item.in_use and f"sha256:{item.name}" not in newest]
    active = sum(item.in_use for item in usage.kernels)
    return _row("Kernels", len(usage.kernels), active, size, sum(item.size for item in idle))


def _print_all(
    usage: Usage,
    machines: Sequence[tuple[Record, int]],
    volumes: Sequence[VolumeUse],
    snapshots: Sequence[Snapshot],
) -> None:
    click.echo("Images space usage:\n")
    heading = ("REPOSITORY", "TAG", "IMAGE ID", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "IN USE")
    print_table(heading, [row for item in usage.images for row in _image_rows(item)])
    click.echo("\nContainers space usage:\n")
    rows = [
        (record.id[:_SHORT], record.image, human_size(size), record.status, record.name) for record, size in machines
    ]
    print_table(("CONTAINER ID", "IMAGE", "SIZE", "STATUS", "NAMES"), rows)
    click.echo("\nLocal Volumes space usage:\n")
    named = [(use.volume.name, str(len(use.machines)), human_size(use.volume.used)) for use in volumes]
    print_table(("VOLUME NAME", "LINKS", "SIZE"), named)
    click.echo("\nSnapshots space usage:\n")
    saved = [(item.name, item.image, human_size(item.size)) for item in snapshots]
    print_table(("SNAPSHOT NAME", "IMAGE", "SIZE"), saved)
    click.echo(f"\nBuild cache usage: {human_size(sum(item.size for item in usage.cache if not item.shared))}\n")
    columns = ("ID", "CacheType", "Size", "LastUsedSince", "InUse", "Shared")
    cache = [[_cache_json(item)[column] for column in columns] for item in usage.cache]
    print_table(("CACHE ID", "CACHE TYPE", "SIZE", "LAST USED", "IN USE", "SHARED"), cache)
    click.echo("\nKernels space usage:\n")
    print_table(("KERNEL ID", "SIZE", "IN USE"), [_kernel_row(item) for item in usage.kernels])


def _image_rows(item: ImageUse) -> list[tuple[str, ...]]:
    sizes = (human_size(item.size), human_size(item.shared), human_size(item.size - item.shared), _yes(item.in_use))
    identity = item.image.digest.removeprefix("sha256:")[:_SHORT]
    names = [Reference.parse(name) for name in item.image.references]
    if not names:
        return [("<none>", "<none>", identity, *sizes)]
    return [
        (name.familiar.rpartition(":")[0] or name.familiar, name.tag or "<none>", identity, *sizes) for name in names
    ]


def _cache_json(item: CacheUse) -> dict[str, str]:
    return {
        "ID": item.name.removeprefix("sha256:")[:_SHORT],
        "CacheType": item.kind,
        "Size": human_size(item.size),
        "LastUsedSince": f"{human_duration(max(0.0, time.time() - item.used))} ago" if item.used else "N/A",
        "InUse": _yes(item.in_use),
        "Shared": _yes(item.shared),
        "Reclaimable": _yes(not item.in_use and not item.shared),
    }


def _kernel_row(item: FolderUse) -> tuple[str, ...]:
    return item.name[:_SHORT], human_size(item.size), _yes(item.in_use)


def _yes(truth: bool) -> str:
    return "true" if truth else "false"


def _report(*parts: Pruned, freed: int = 0) -> None:
    """What was removed, as Docker lists it."""
    lines = [f"untagged: {Reference.parse(name).familiar}" for part in parts for name in part.untagged]
    lines += [f"deleted: {digest}" for part in parts for digest in part.deleted]
    _print_deleted("Images", lines)
    _print_deleted("build cache objects", [name.removeprefix("sha256:") for part in parts for name in part.cache])
    click.echo(f"Total reclaimed space: {human_size(freed + sum(part.size for part in parts))}")


def _print_deleted(kind: str, names: Sequence[str]) -> None:
    if names:
        click.echo("\n".join([f"Deleted {kind}:", *names, ""]))
