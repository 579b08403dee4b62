"""Running images: from an image of the store and what the command line adds, to a machine.

with start(store, RunOptions(image="hello", publish=("8080:80",))) as machine:
...                                 # the machine runs; leaving the block ends and removes it
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from firekiln.errors import MachineError
from firekiln.machine.contract import Drive, Interface, MachineDocument, Network, Root
from firekiln.machine.drives import layer_drives, make_scratch
from firekiln.machine.ending import End
from firekiln.machine.guestbin import pid1_path
from firekiln.machine.initramfs import KernelModule, base_initramfs, write_initramfs
from firekiln.machine.kernel import Kernel, intact_kernel, kernel_file, pull
from firekiln.machine.log import Stream
from firekiln.machine.machine import Machine
from firekiln.machine.names import check_name, random_id
from firekiln.machine.network import allocate, mac_address, parse_publish
from firekiln.machine.process import Overrides, Process
from firekiln.machine.qemu import GUEST_MODULES
from firekiln.machine.settings import Settings
from firekiln.machine.spec import DEFAULT_DISK, DEFAULT_MEMORY, BlockDevice, MachineSpec, PublishedPort, UserNetwork
from firekiln.machine.state import MachineLock, Record, State
from firekiln.machine.supervise import abandon, detach, discard, lease_name, supervise, sweep
from firekiln.oci.config import ImageConfig
from firekiln.store import Layer, Store, StoredImage
from firekiln.store.durable import replace_file, store_errors

Progress = Callable[[str], None]
_SCRATCH = "scratch"
_SHORT_ID = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What `firekiln run` says. None, "" or nothing leaves the image's word, or the default.

    `env` holds `NAME=value`, or `NAME` alone, which removes the image's. `memory` and `disk_size` are in bytes,
    `stop_timeout` in seconds (negative: wait for ever). `publish` is as with Docker's `-p`.
    """

    image: str
    args: tuple[str, ...] = ()
    name: str = ""
    publish: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str | None = None
    working_dir: str | None = None
    entrypoint: str | None = None
    hostname: str = ""
    stop_signal: str | None = None
    stop_timeout: float = 10.0
    auto_remove: bool = False
    memory: int = DEFAULT_MEMORY
    vcpus: int = 1
    disk_size: int = DEFAULT_DISK
    kernel: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A machine that is recorded and prepared, and does not run yet. Whoever has it holds its lock."""

    state: State
    record: Record
    lock: MachineLock


def create(store: Store, options: RunOptions, *, progress: Progress = lambda _: None) -> Created:
    """Prepare a machine: its record, drives, initramfs. A kernel is fetched where the store has none.

    ImageNotFoundError, ConflictError (name or port taken), UsageError, MachineError; then nothing is left.
    """
    store.check_writable()
    with store.using_blobs():
        return _create(store, options, progress)


def _create(store: Store, options: RunOptions, progress: Progress) -> Created:
    if options.name:
        check_name(options.name)
    requests = [request for text in options.publish for request in parse_publish(text)]
    image = store.images.get(options.image)
    machine_id = random_id()
    hostname = options.hostname or machine_id[:_SHORT_ID]
    process = Process.from_image(image.image.config, _overrides(options), hostname=hostname)
    kernel = _kernel(store, options, image.image.platform.architecture, progress)
    ports = allocate(requests)

    state = State(store.machines)
    sweep(state)
    folder = state.folder_of(machine_id)
    drives = layer_drives(store, image.layers)
    spec = _spec(options, kernel=kernel, machine_id=machine_id, folder=folder, layers=drives, ports=ports)
    settings = Settings(
        spec=spec,
        kernel_digest=kernel.digest,
        stop_signal=process.stop_signal,
        stop_timeout=options.stop_timeout,
        auto_remove=options.auto_remove,
    )
    record, lock = state.create(
        Record(
            id=machine_id,
            name=options.name,
            image=options.image,
            image_digest=image.digest,
            created_ns=time.time_ns(),
            settings=settings.encode(),
            config=_container_config(image, options, process, hostname),
        )
    )
    try:
        store.leases.hold(lease_name(machine_id), [*_blobs(image, drives), kernel.digest])
        document = _document(spec, process, hostname, drives)
        with store_errors(folder, "cannot prepare the machine in"):
            write_initramfs(spec.initramfs, _base_initramfs(store, kernel), document)
        make_scratch(folder / _SCRATCH, options.disk_size)
    except BaseException:
        discard(state, machine_id)
        lock.release()
        raise
    return Created(state=state, record=record, lock=lock)


def start(store: Store, options: RunOptions, *, progress: Progress = lambda _: None) -> Machine:
    """Run an image in the background. Returns when its process has started; the machine outlives this process.

    Raises as `create`; and MachineError where the machine did not start, with Docker's `exit_status` (125, 126, 127).
    """
    made = create(store, options, progress=progress)
    try:
        detach(made.state, made.record, made.lock)
    except (KeyboardInterrupt, SystemExit):
        abandon(made.state, made.record.id)  # nobody was told of it: nobody would end it
        raise
    return Machine(made.state, made.record.id)


def run(
    store: Store,
    options: RunOptions,
    *,
    output: Callable[[Stream, bytes], None],
    created: Callable[[Record], None] = lambda _: None,
    progress: Progress = lambda _: None,
) -> End:
    """Run an image to its end in this process, which must call this in its main thread: signals stop the machine.

    Raises as `start`.
    """
    made = create(store, options, progress=progress)
    created(made.record)
    return supervise(made.state, made.record, made.lock, output=output)


def _overrides(options: RunOptions) -> Overrides:
    return Overrides(
        args=options.args,
        entrypoint=options.entrypoint,
        env=options.env,
        user=options.user,
        working_dir=options.working_dir,
        stop_signal=options.stop_signal,
        stop_timeout_ms=max(0, round(options.stop_timeout * 1000)),
    )


def _kernel(store: Store, options: RunOptions, architecture: str, progress: Progress) -> Kernel:
    if architecture != "amd64":
        raise MachineError(
            f"{options.image}: a machine for linux/{architecture} cannot be run yet",
            hint="build the image for linux/amd64 (--platform)",
        )
    if options.kernel is not None:
        return kernel_file(store.root, options.kernel, architecture)
    kernel = intact_kernel(store, architecture)
    if kernel is None:
        progress("the store has no kernel yet: fetching Debian's")
        kernel = pull(store.root, architecture=architecture, progress=progress)
    return kernel


def _spec(
    options: RunOptions,
    *,
    kernel: Kernel,
    machine_id: str,
    folder: Path,
    layers: Sequence[Layer],
    ports: tuple[PublishedPort, ...],
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
        network=UserNetwork(mac=mac_address(machine_id), ports=ports),
    )


def _serial(number: int) -> str:
    return f"layer{number}"


def _document(spec: MachineSpec, process: Process, hostname: str, layers: Sequence[Layer]) -> MachineDocument:
    network = spec.network
    assert network is not None
    interface = Interface(address=network.address, gateway=network.gateway)
    return MachineDocument(
        hostname=hostname,
        root=Root(
            layers=tuple(Drive(serial=_serial(number)) for number in range(len(layers))),
            scratch=Drive(serial=_SCRATCH),
        ),
        process=process,
        network=Network(interfaces=(interface,), nameservers=(str(network.nameserver),)),
        time_ns=time.time_ns(),
    )


def _base_initramfs(store: Store, kernel: Kernel) -> Path:
    """The part of the initramfs that is the same for every machine of a kernel, made once."""
    pid1 = pid1_path(kernel.architecture).read_bytes()
    modules = kernel.modules_for(GUEST_MODULES)
    key = json.dumps([hashlib.sha256(pid1).hexdigest(), kernel.digest, [module.name for module in modules]])
    path = store.machines / "cache" / f"initramfs-{hashlib.sha256(key.encode()).hexdigest()}"
    if not store.integrity.is_known(path):
        data = base_initramfs(
            pid1, [KernelModule(name=module.path.name, data=module.path.read_bytes()) for module in modules]
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with store_errors(path, "cannot write"):
            replace_file(path, data, temporary=store.temporary.folder)
        store.integrity.trust([path])
    return path


def _blobs(image: StoredImage, drives: Sequence[Layer]) -> list[str]:
    layers = {layer.digest for layer in (*image.layers, *drives)}
    return [image.digest, image.config_digest, *sorted(layers)]


def _container_config(image: StoredImage, options: RunOptions, process: Process, hostname: str) -> str:
    """Docker's inner config of the container: the image's, with what the command line said in its place."""
    config: ImageConfig = image.image.config
    entrypoint = config.entrypoint
    if options.entrypoint is not None:
        entrypoint = (options.entrypoint,) if options.entrypoint else None
    command = process.argv[len(entrypoint or ()) :]
    made = replace(
        config,
        user=process.user,
        env=process.env,
        entrypoint=entrypoint,
        cmd=command or None,
        working_dir=process.cwd if (options.working_dir or config.working_dir) else "",
        stop_signal=options.stop_signal or config.stop_signal,
    )
    return json.dumps({"Hostname": hostname, "Image": options.image, **made.to_json()})
