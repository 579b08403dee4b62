"""Running images: from an image of the store and what the command line adds, to a machine.

with start(store, RunOptions(image="hello", publish=("8080:80",))) as machine:
...                                 # the machine runs; leaving the block ends and removes it
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from firekiln.errors import UsageError
from firekiln.machine.created import Created, begin, own
from firekiln.machine.guest.base import kept_initramfs
from firekiln.machine.guest.contract import Drive, HealthCheck, MachineDocument, Root
from firekiln.machine.guest.initramfs import write_initramfs
from firekiln.machine.kernel import Kernel
from firekiln.machine.kernel.select import machine_kernel
from firekiln.machine.machine import Machine
from firekiln.machine.names import check_name, random_id
from firekiln.machine.network.networks import Networks
from firekiln.machine.network.ports import allocate, parse_publish
from firekiln.machine.network.request import interfaces
from firekiln.machine.options import (
    RunOptions,
    container_config,
    effective_config,
    guest_network,
    mounts,
    overrides,
    published,
)
from firekiln.machine.process import Process
from firekiln.machine.services import own_init
from firekiln.machine.supervision.journal import note
from firekiln.machine.supervision.logconfig import LogConfig
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.supervision.state import Record, State
from firekiln.machine.supervision.stream import Stream
from firekiln.machine.supervision.supervise import discard, lease_name, sweep
from firekiln.machine.vmm.boards import board_of
from firekiln.machine.vmm.choice import choose_name, fitted, guest_modules
from firekiln.machine.vmm.drives import layer_drives, make_scratch
from firekiln.machine.vmm.spec import BlockDevice, MachineSpec, Nic, VmmName
from firekiln.machine.volumes.attachments import SHARING, Attachments, attach
from firekiln.machine.volumes.mountspec import combine
from firekiln.oci.config import ImageConfig
from firekiln.rootfs.tree import Directory, Meta
from firekiln.store import Layer, Store, StoredImage
from firekiln.store.durable import store_errors

Progress = Callable[[str], None]
_SCRATCH = "scratch"
_OWN_PLACES = 2
"""Virtio devices that every machine has beside its drives and networks: channel, entropy."""
_SHORT_ID = 12


def create(store: Store, options: RunOptions, *, progress: Progress = lambda _: None) -> Created:
    """Prepare a machine: its record, drives, initramfs. A kernel is fetched where the store has none.

    ImageNotFoundError, ConflictError (name or port taken), UsageError, MachineError; then nothing is left.
    """
    store.check_writable()
    with store.using_blobs(), ExitStack() as undo:
        made = _create(store, options, progress, undo)
        undo.pop_all()
        return made


def _create(store: Store, options: RunOptions, progress: Progress, undo: ExitStack) -> Created:
    if options.name:
        check_name(options.name)
    image = store.images.get(options.image, options.platform)
    config = effective_config(image.image.config, options)
    health = HealthCheck.from_config(config.healthcheck, config.shell)
    machine_id = random_id()
    hostname = options.hostname or machine_id[:_SHORT_ID]
    process = Process.from_image(config, overrides(options), hostname=hostname)
    kernel = machine_kernel(store, options.kernel, image.image.platform.architecture, progress)
    vmm = choose_name(options.vmm, kernel.architecture)
    nics = _nics(store, options, machine_id, config=config, vmm=vmm, undo=undo)

    state = State(store.machines)
    sweep(state)
    folder = state.folder_of(machine_id)
    drives = layer_drives(store, image.layers)
    # Most starts need nothing of the files in the image, so that they are looked for when somebody asks.
    tree = Directory(meta=Meta(mode=0o755), load=lambda: store.layers.merged(drives).children)
    timeout = options.stop_timeout
    init = own_init(options.init, tree, process, options.restart, machine_id=machine_id, stop_timeout=timeout)
    can_share = vmm == "qemu" and (kernel.kind == "own" or SHARING in kernel.features)
    attached = attach(store, combine(options.mounts, config.volumes), folder, can_share=can_share, progress=progress)
    undo.callback(attached.discard, store)
    spec = _attached(_spec(options, kernel, machine_id, folder=folder, layers=drives, nics=nics), attached)
    settings = Settings(
        spec=spec,
        kernel_digest=kernel.digest,
        stop_signal=process.stop_signal,
        stop_timeout=options.stop_timeout,
        auto_remove=options.auto_remove,
        mounts=tuple(attached.points),
        open_stdin=options.stdin,
        stdin_once=options.stdin_once,
        tty=options.tty is not None,
        restart=(options.restart.policy, options.restart.retries),
        health=health is not None,
        health_limit=health.limit if health else (0.0, 0),
        read_only=options.read_only,
        vmm=vmm,
        log=LogConfig.parse(options.log_driver, options.log_options),
        annotations=options.annotations,
    )
    record, lock = state.create(
        Record(
            id=machine_id,
            name=options.name,
            image=options.image,
            image_digest=image.digest,
            created_ns=time.time_ns(),
            settings=settings.encode(),
            config=container_config(config, options, process, hostname),
        )
    )
    try:
        Networks(store.root).rename(machine_id, options.name, record.name)
        store.leases.hold(lease_name(machine_id), [*_blobs(image, drives), kernel.digest])
        document = _document(spec, options, process=process, health=health, hostname=hostname, layers=drives)
        document = replace(document, mounts=(*document.mounts, *attached.mounts))
        if init is not None:
            document = replace(document, init=init.init, files=init.files)
        attached.prepare(store, tree)
        with store_errors(folder, "cannot prepare the machine in"):
            _write_initramfs(store, kernel, settings, document)
        make_scratch(folder / _SCRATCH, options.disk_size)
    except BaseException:
        discard(state, machine_id)
        lock.release()
        raise
    _note(state, record, "create")
    return Created(state=state, record=record, lock=lock)


def start(store: Store, options: RunOptions, *, progress: Progress = lambda _: None) -> Machine:
    """Run an image in the background. Returns when its process has started; the machine outlives this process.

    Raises as `create`; and MachineError where the machine did not start, with Docker's `exit_status` (125, 126, 127).
    """
    return begin(create(store, options, progress=progress))


def run(
    store: Store,
    options: RunOptions,
    *,
    created: Callable[[Record], None] = lambda _: None,
    progress: Progress = lambda _: None,
) -> tuple[Record, Stream]:
    """Run an image for this process, which owns it: closing the stream without `detach` stops the machine.

    The stream says STARTED, what the process writes, and at last EXITED or FAILED. Raises as `create`.
    """
    return own(create(store, options, progress=progress), created=created)


def _nics(
    store: Store, options: RunOptions, machine_id: str, *, config: ImageConfig, vmm: VmmName, undo: ExitStack
) -> tuple[Nic, ...]:
    """The machine's network interfaces; their addresses and ports are chosen."""
    ports = allocate([request for text in published(options, config) for request in parse_publish(text)])
    undo.callback(Networks(store.root).leave, machine_id)
    return interfaces(store.root, options.networks, machine_id, name=options.name, ports=ports, vmm=vmm)


def _note(state: State, record: Record, action: str) -> None:
    note(state.folder, action, machine_id=record.id, name=record.name, image=record.image)


def _spec(
    options: RunOptions,
    kernel: Kernel,
    machine_id: str,
    *,
    folder: Path,
    layers: Sequence[Layer],
    nics: tuple[Nic, ...],
) -> MachineSpec:
    drives = [BlockDevice(serial=_serial(n), path=layer.path, readonly=True) for n, layer in enumerate(layers)]
    return MachineSpec(
        name=machine_id[:_SHORT_ID],
        architecture=kernel.architecture,
        kernel=kernel.image,
        initramfs=folder / "initramfs",
        drives=(*drives, BlockDevice(serial=_SCRATCH, path=folder / _SCRATCH, readonly=False)),
        vcpus=options.vcpus,
        memory=options.memory,
        nics=nics,
        drive_limit=options.drive_limit,
    )


def _attached(spec: MachineSpec, attached: Attachments) -> MachineSpec:
    """With the drives and shares of its mounts. UsageError where there are too many."""
    wanted = len(attached.drives) + len(attached.shares)
    free = board_of(spec.architecture).places - _OWN_PLACES - len(spec.nics) - len(spec.drives)
    if wanted > free:
        raise UsageError(
            f"{wanted} volumes and folders are too many: this machine has room for {free}",
            hint="mount one folder that holds several, or build the image anew in fewer steps",
        )
    return replace(spec, drives=(*spec.drives, *attached.drives), shares=tuple(attached.shares))


def _serial(number: int) -> str:
    return f"layer{number}"


def _document(
    spec: MachineSpec,
    options: RunOptions,
    *,
    process: Process,
    health: HealthCheck | None,
    hostname: str,
    layers: Sequence[Layer],
) -> MachineDocument:
    return MachineDocument(
        hostname=hostname,
        root=Root(
            layers=tuple(Drive(serial=_serial(number)) for number in range(len(layers))),
            scratch=Drive(serial=_SCRATCH),
            read_only=options.read_only,
        ),
        process=process,
        network=guest_network(spec.nics, options),
        mounts=mounts(options),
        sysctls=options.sysctls,
        restart=options.restart,
        health=health,
        time_ns=time.time_ns(),
    )


def _write_initramfs(store: Store, kernel: Kernel, settings: Settings, document: MachineDocument) -> None:
    spec = settings.spec
    base = kept_initramfs(store, kernel, guest_modules(settings.vmm))
    write_initramfs(spec.initramfs, base, fitted(settings.vmm, spec, document))


def _blobs(image: StoredImage, drives: Sequence[Layer]) -> list[str]:
    layers = {layer.digest for layer in (*image.layers, *drives)}
    return [image.digest, image.config_digest, *sorted(layers)]
