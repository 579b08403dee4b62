"""Booting a machine for steps: its kernel, its drives, its VMM."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from firekiln.errors import MissingProgramError
from firekiln.machine.guest.base import kept_initramfs
from firekiln.machine.guest.initramfs import write_initramfs
from firekiln.machine.isolation.delivery import Delivery
from firekiln.machine.isolation.document import DELIVERY, SCRATCH, StepsDocument
from firekiln.machine.isolation.vm import StepMachine, drive_serial, make_scratch
from firekiln.machine.kernel import Kernel, intact_kernel, pull
from firekiln.machine.kernel.debian import STEPS
from firekiln.machine.network.ports import mac_address
from firekiln.machine.vmm.accel import choose_qemu
from firekiln.machine.vmm.boards import board_of
from firekiln.machine.vmm.hostfacts import HostFacts
from firekiln.machine.vmm.qemu import GUEST_MODULES
from firekiln.machine.vmm.spec import GIB, MIB, BlockDevice, MachineSpec, Nic
from firekiln.sandbox.limits import Limits
from firekiln.store import Store
from firekiln.store.durable import store_errors

_OVERHEAD: Final = 256 * MIB
"""Memory of the guest beside what a step may use."""
_LEAST_MEMORY: Final = 512 * MIB
_USUAL_MEMORY: Final = 2 * GIB
_LARGEST_SCRATCH: Final = 64 * GIB
_LEAST_SCRATCH: Final = GIB
_OWN_PLACES: Final = 5
"""Virtio devices beside layers: channel, entropy, network, scratch drive, delivery drive."""


def boot(
    store: Store, folder: Path, layers: Sequence[Path], limits: Limits, *, progress: Callable[[str], None]
) -> StepMachine:
    """A machine with the largest of `layers` as drives, as many as it has places for. Its files lie in `folder`.

    MissingProgramError where there is no QEMU; MachineError, StoreError.
    """
    kernel = _kernel(store, progress)
    board = board_of(kernel.architecture)
    try:
        vmm = choose_qemu(kernel.image, kernel.digest, HostFacts(store.machines / "host.json"), kernel.architecture)
    except MissingProgramError as error:
        raise MissingProgramError(f"--isolation=vm: {error.message}", hint=error.hint) from error
    drives = _largest(layers, board.places - _OWN_PLACES)
    serials = [BlockDevice(serial=drive_serial(number), path=path, readonly=True) for number, path in enumerate(drives)]
    spec = MachineSpec(
        name="firekiln-steps",
        architecture=kernel.architecture,
        kernel=kernel.image,
        initramfs=folder / "initramfs",
        drives=(
            *serials,
            BlockDevice(serial=SCRATCH, path=folder / SCRATCH, readonly=False),
            BlockDevice(serial=DELIVERY, path=folder / DELIVERY, readonly=True),
        ),
        vcpus=_processors(limits, emulated=vmm.accelerator == "tcg"),
        memory=_memory(limits),
        nics=(Nic(mac=mac_address(folder.name)),),
    )
    with ExitStack() as undo:
        delivery = undo.enter_context(Delivery(folder / DELIVERY))
        make_scratch(folder / SCRATCH, _scratch_size(folder))
        with store_errors(folder, "cannot prepare a machine in"):
            base = kept_initramfs(store, kernel, (*GUEST_MODULES, *STEPS))
            write_initramfs(spec.initramfs, base, StepsDocument(channel=vmm.channel))
        machine = StepMachine(vmm, spec, drives, delivery)
        undo.pop_all()
        return machine


def new_folder(store: Store) -> Path:
    """Where a machine's files lie, until it ends; swept with what this process leaves if it is killed."""
    with store_errors(store.root, "cannot prepare a machine in"):
        return Path(tempfile.mkdtemp(prefix="steps.", dir=store.temporary.folder))


def _scratch_size(folder: Path) -> int:
    """What the disk has free. What a step writes beyond that fails in the guest as it would here."""
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize // MIB * MIB
    return max(_LEAST_SCRATCH, min(free, _LARGEST_SCRATCH))


def _kernel(store: Store, progress: Callable[[str], None]) -> Kernel:
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    board_of(architecture)
    kernel = intact_kernel(store, architecture)
    if kernel is None:
        progress("the store has no kernel yet: fetching Debian's")
        kernel = pull(store.root, architecture=architecture, progress=progress)
    return kernel


def _largest(layers: Sequence[Path], count: int) -> tuple[Path, ...]:
    unique = {path.stat().st_ino: path for path in layers}
    return tuple(sorted(unique.values(), key=lambda path: path.stat().st_size, reverse=True)[:count])


def _memory(limits: Limits) -> int:
    if limits.memory:
        return max(limits.memory + _OVERHEAD, _LEAST_MEMORY) // MIB * MIB
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(min(total // 2, _USUAL_MEMORY), _LEAST_MEMORY) // MIB * MIB


def _processors(limits: Limits, *, emulated: bool) -> int:
    """An emulated machine of several takes long to boot."""
    ours = len(os.sched_getaffinity(0))
    return min(-int(-limits.cpus // 1), ours) if limits.cpus else 1 if emulated else ours
