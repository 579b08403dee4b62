"""Making a snapshot: the machine stands still while its memory and drives are copied, and goes on.

What takes time, reading all of it once more for its digests and having it on the disk, is done when it goes on again.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from firekiln.errors import ConflictError, MachineError, UsageError
from firekiln.machine.machine import Machine, not_running
from firekiln.machine.snapshot.environment import environment_of
from firekiln.machine.snapshot.files import copy_drive, copy_memory, seal
from firekiln.machine.snapshot.snapshots import Snapshot, Snapshots
from firekiln.machine.supervision import control
from firekiln.machine.supervision.journal import note
from firekiln.machine.supervision.live import read_live
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.supervision.state import Record, State
from firekiln.machine.supervision.supervise import lease_name
from firekiln.machine.vmm.spec import MIB
from firekiln.machine.volumes.drives import Volumes
from firekiln.store import Store
from firekiln.store.durable import fsync_directory, fsync_file, store_errors

_READY: Final = 60.0
"""Seconds that the guest's processes have to stand still, and its devices' state to be written."""
_LINE: Final = 1 << 16


def take(store: Store, machine: Machine, name: str, *, key: str = "") -> Snapshot:
    """Make a snapshot of a machine that runs. `key` is `run --warm`'s.

    ConflictError where the name is taken or the machine doesn't run, UsageError where it is not to be cloned,
    MachineError where it doesn't stand still; then nothing is left of it.
    """
    record, settings = machine.record, machine.settings
    if record.status != "running":
        raise not_running(record)
    check_source(store, settings)
    snapshots, state = Snapshots(store), State(store.machines)
    with snapshots.making(name), store.using_blobs():
        with store_errors(store.root, "cannot make the snapshot in"):
            folder = Path(tempfile.mkdtemp(prefix="snapshot.", dir=store.temporary.folder))
        try:
            with store_errors(folder, "cannot write the snapshot to"):
                health = _copy(state, record, settings, folder)
                files = sorted(path for path in folder.rglob("*") if path.is_file())
                for path in files:
                    fsync_file(path)
                fsync_directory(folder)
                seals = {str(path.relative_to(folder)): seal(path) for path in files}
            spec = settings.spec
            made = Snapshot(
                name=name,
                folder=folder,
                created_ns=time.time_ns(),
                machine=record.id,
                image=record.image,
                image_digest=record.image_digest,
                settings=record.settings,
                config=record.config,
                environment=environment_of(store, spec.kernel, settings.kernel_digest, spec.architecture),
                layers=tuple(f"sha256:{drive.path.name}" for drive in spec.drives if drive.readonly),
                files=seals,
                health=health,
                key=key,
            )
            published = snapshots.publish(made, store.leases.of(lease_name(record.id)))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    note(store.machines, "snapshot", machine_id=record.id, name=record.name, image=record.image, snapshot=name)
    return published


def check_source(store: Store, settings: Settings) -> None:
    """UsageError for a machine whose clones would be wrong."""
    reason = _reason(store, settings)
    if reason:
        raise UsageError(f"no snapshot can be made of this machine: {reason}")


def _reason(store: Store, settings: Settings) -> str:
    if settings.vmm != "qemu":
        return "it is Firecracker's; --vmm qemu is what can"
    if settings.open_stdin or settings.tty:
        return "its process has a standard input or a terminal (-i, -t), which clones could not share"
    if any(nic.network != "default" for nic in settings.spec.nics):
        return "it is in a network of its own (--network)"
    for point in settings.mounts:
        if point.kind == "bind":
            return f"a folder of the host is mounted at {point.target}"
        if point.kind == "volume":
            volume = Volumes(store).find(point.name)
            if volume is None or not volume.is_anonymous:
                return f"the volume {point.name} is mounted at {point.target}, and can only be one machine's"
    return ""


def _copy(state: State, record: Record, settings: Settings, folder: Path) -> Mapping[str, Any]:
    """All files, of one and the same moment; how healthy the machine was then."""
    machine = state.folder_of(record.id)
    writable = [drive for drive in settings.spec.drives if not drive.readonly]
    (folder / "drives").mkdir()
    with _standing_still(machine, folder, record) as memory:
        live = read_live(machine)
        copy_memory(memory, folder / "memory", settings.spec.memory // MIB * MIB)
        for drive in writable:
            copy_drive(drive.path, folder / "drives" / drive.serial)
    copy_drive(settings.spec.initramfs, folder / "initramfs")
    if live is None:
        raise MachineError("the machine's state cannot be read")
    return {"health": live.health, "streak": live.streak, "log": [*map(dict, live.log)]}


@contextmanager
def _standing_still(machine: Path, folder: Path, record: Record) -> Iterator[int]:
    """The machine stands still; a descriptor of its memory. MachineError where it didn't, to the end."""
    client = control.connect(machine, {"do": "snapshot", "folder": str(folder)})
    if client is None:
        raise not_running(record)
    with client:
        client.settimeout(_READY)
        fds = _answer(client, "paused")
        try:
            yield fds[0]
        finally:
            for fd in fds:
                os.close(fd)
        client.sendall(b"\n")
        _answer(client, "resumed")


def _answer(client: socket.socket, wanted: str) -> list[int]:
    """The descriptors that come with the supervisor's answer. MachineError where that is another."""
    fds: list[int] = []
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < _LINE:
            part, more, _, _ = socket.recv_fds(client, _LINE, 4)
            fds += more
            data += part
            if not part:
                break
    except TimeoutError as error:
        raise MachineError(f"the machine does not stand still within {_READY:g} s") from error
    except OSError:
        data = b""
    answer: dict[str, Any] = {}
    with suppress(ValueError):
        answer = json.loads(data)
    if answer.get(wanted) is True and (fds or wanted != "paused"):
        return fds
    for fd in fds:
        os.close(fd)
    raise ConflictError(
        f"no snapshot: {answer.get('error') or 'the machine has ended meanwhile'}", hint=answer.get("hint")
    )
