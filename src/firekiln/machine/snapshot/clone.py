"""Machines made of a snapshot: recorded and prepared as those of an image are, but for what is in their memory."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Final

from firekiln.errors import UsageError
from firekiln.machine.created import Created
from firekiln.machine.guest.initramfs import append_document, read_document
from firekiln.machine.names import check_name, random_id
from firekiln.machine.network.ports import allocate, mac_address, parse_publish
from firekiln.machine.snapshot import snapshots
from firekiln.machine.snapshot.environment import check_environment
from firekiln.machine.snapshot.files import copy_drive
from firekiln.machine.snapshot.origin import Origin, write_origin
from firekiln.machine.snapshot.snapshots import Snapshot, Snapshots
from firekiln.machine.supervision.journal import note
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.supervision.state import Record, State
from firekiln.machine.supervision.supervise import discard, lease_name, sweep
from firekiln.machine.vmm.spec import BlockDevice, PublishedPort
from firekiln.machine.volumes.drives import ANONYMOUS_LABEL, Volumes
from firekiln.store import Store
from firekiln.store.durable import store_errors
from firekiln.values import dataclass

_SHORT_ID: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneOptions:
    """What is a clone's own; the rest is as it was saved. `publish` is as with `-p`, `publish_all` as with `-P`."""

    name: str = ""
    publish: tuple[str, ...] = ()
    publish_all: bool = False
    hostname: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    auto_remove: bool = False


def clone(store: Store, snapshot: Snapshot, options: CloneOptions) -> Created:
    """Prepare a machine that will go on from the snapshot when it is first started.

    ConflictError (name or port taken), UsageError; UnusableError where the snapshot is corrupted, or another host's;
    then nothing is left.
    """
    store.check_writable()
    settings = snapshot.decoded()
    if options.name:
        check_name(options.name)
    if options.auto_remove and settings.restart[0] != "no":
        raise UsageError("conflicting options: cannot specify both --restart and --rm")
    check_environment(store, snapshot, settings)
    Snapshots(store).check(snapshot)
    with store.using_blobs(), ExitStack() as undo:
        made = _clone(store, snapshot, settings, options, undo)
        undo.pop_all()
        return made


def _clone(store: Store, snapshot: Snapshot, settings: Settings, options: CloneOptions, undo: ExitStack) -> Created:
    config = json.loads(snapshot.config)
    machine_id = random_id()
    hostname = options.hostname or machine_id[:_SHORT_ID]
    state = State(store.machines)
    sweep(state)
    folder = state.folder_of(machine_id)
    ports = _ports(settings, config, options)
    own = _with_volumes(store, _own(store, snapshot, settings, folder, ports), undo)
    record, lock = state.create(
        Record(
            id=machine_id,
            name=options.name,
            image=snapshot.image,
            image_digest=snapshot.image_digest,
            created_ns=time.time_ns(),
            settings=replace(own, auto_remove=options.auto_remove).encode(),
            config=json.dumps(_config(config, hostname, options)),
        )
    )
    try:
        _prepare(store, snapshot, own, folder, hostname)
    except BaseException:
        discard(state, machine_id)
        lock.release()
        raise
    note(state.folder, "create", machine_id=machine_id, name=record.name, image=record.image, snapshot=snapshot.name)
    return Created(state=state, record=record, lock=lock)


def _ports(settings: Settings, config: Mapping[str, Any], options: CloneOptions) -> tuple[PublishedPort, ...]:
    words = list(options.publish)
    if options.publish_all:
        words += config.get("ExposedPorts") or ()
    if words and not settings.spec.nics:
        raise UsageError("the machine that was saved has no network: nothing of it can be published")
    return allocate([request for word in words for request in parse_publish(word)])


def _own(
    store: Store, snapshot: Snapshot, settings: Settings, folder: Path, ports: tuple[PublishedPort, ...]
) -> Settings:
    """The settings with the clone's own places and addresses. DamagedError where a layer is missing or damaged."""
    machine_id = folder.name
    layers = iter(snapshot.layers)
    drives = tuple(
        replace(drive, path=store.layers.get(next(layers)).path)
        if drive.readonly
        else replace(drive, path=folder / drive.serial)
        for drive in settings.spec.drives
    )
    nics = tuple(
        replace(nic, mac=mac_address(machine_id), ports=ports if number == 0 else ())
        for number, nic in enumerate(settings.spec.nics)
    )
    spec = replace(settings.spec, name=machine_id[:_SHORT_ID], initramfs=folder / "initramfs", drives=drives, nics=nics)
    return replace(settings, spec=spec)


def _with_volumes(store: Store, settings: Settings, undo: ExitStack) -> Settings:
    """With volumes of its own in place of those without a name that the machine had."""
    volumes = Volumes(store)
    places: dict[str, Path] = {}
    points = []
    for point in settings.mounts:
        if point.kind == "volume":
            volume = volumes.create(random_id(), labels={ANONYMOUS_LABEL: ""})
            undo.callback(volumes.remove, volume)
            places[point.source] = volume.drive
            points.append(replace(point, name=volume.name, source=str(volume.drive)))
        else:
            points.append(point)
    serials = dict(zip((f"volume{number}" for number in range(len(places))), places.values(), strict=True))
    drives = tuple(
        BlockDevice(serial=drive.serial, path=serials.get(drive.serial, drive.path), readonly=drive.readonly)
        for drive in settings.spec.drives
    )
    return replace(settings, mounts=tuple(points), spec=replace(settings.spec, drives=drives))


def _config(config: Mapping[str, Any], hostname: str, options: CloneOptions) -> dict[str, Any]:
    labels = {**(config.get("Labels") or {}), **options.labels}
    return {**config, "Hostname": hostname, **({"Labels": labels} if labels else {})}


def _prepare(store: Store, snapshot: Snapshot, settings: Settings, folder: Path, hostname: str) -> None:
    """Its files: copies of the drives, what it boots from some day, and what it goes on from now."""
    machine_id = folder.name
    store.leases.hold(lease_name(machine_id), store.leases.of(snapshots.lease_name(snapshot.name)))
    document = {**read_document(snapshot.initramfs), "hostname": hostname, "time_ns": time.time_ns()}
    network = document["network"]
    for interface, nic in zip(network["interfaces"], settings.spec.nics, strict=True):
        interface["mac"] = nic.mac
    identity = {"hostname": hostname, "machine_id": guest_machine_id(machine_id), "network": network}
    with store_errors(folder, "cannot prepare the machine in"):
        for drive in settings.spec.drives:
            if not drive.readonly:
                copy_drive(snapshot.drive(drive.serial), drive.path)
        copy_drive(snapshot.initramfs, settings.spec.initramfs)
        append_document(settings.spec.initramfs, document)
        write_origin(folder, Origin(saved=snapshot.saved, clone=identity, health=snapshot.health))


def guest_machine_id(machine_id: str) -> str:
    """machine-id(5) of a machine's guest: 32 hexadecimal digits, as `services` makes it where an init wants one."""
    return hashlib.sha256(f"firekiln machine-id {machine_id}".encode()).hexdigest()[:32]
