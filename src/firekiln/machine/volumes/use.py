"""Which machines have which volumes, and removing volumes that none has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from firekiln.errors import ConflictError
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.supervision.state import State
from firekiln.machine.volumes.drives import Volume, VolumeNotFoundError, Volumes, anonymous
from firekiln.machine.volumes.mountpoint import volumes_used
from firekiln.store import Store
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeUse:
    """A volume and the ids of the machines, running or not, that have it."""

    volume: Volume
    machines: tuple[str, ...]


def volume_uses(store: Store) -> list[VolumeUse]:
    """All volumes, by name."""
    users = _users(store)
    return [VolumeUse(volume=volume, machines=tuple(users.get(volume.name, ()))) for volume in Volumes(store).list()]


def remove_volume(store: Store, name: str, *, force: bool = False) -> None:
    """Delete a volume and what is on it. VolumeNotFoundError unless `force`; ConflictError where a machine has it."""
    volumes = Volumes(store)
    volume = volumes.find(name)
    if volume is None:
        if force:
            return
        raise VolumeNotFoundError(name)
    if machines := _users(store).get(name):
        error = ConflictError(f"remove {name}: volume is in use - [{', '.join(machines)}]", hint="remove those first")
        error.exit_status = 1
        raise error
    volumes.remove(volume)


def remove_anonymous(store: Store, names: Iterable[str]) -> None:
    """Remove those of the volumes `names` that have no name of their own, and that no other machine has."""
    for volume in anonymous(names, store):
        with suppress(ConflictError):
            remove_volume(store, volume.name, force=True)


def prune_volumes(store: Store, *, wanted: Callable[[Volume], bool]) -> list[tuple[str, int]]:
    """Remove the `wanted` ones of those that no machine has; their names and the bytes that each took."""
    removed = []
    for use in volume_uses(store):
        if not use.machines and wanted(use.volume):
            size = use.volume.used
            Volumes(store).remove(use.volume)
            removed.append((use.volume.name, size))
    return removed


def _users(store: Store) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for record in State(store.machines).list():
        for name in volumes_used(Settings.decode(record.settings).mounts):
            found.setdefault(name, []).append(record.id)
    return found
