"""What a snapshot needs of its host: compared before anything is started from one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from firekiln.machine.snapshot.snapshots import Environment, Snapshot, UnusableError
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.vmm.accel import choose_qemu
from firekiln.machine.vmm.hostfacts import HostFacts
from firekiln.store import Store

_TELLING: Final = ("model name", "flags", "Features", "CPU implementer", "CPU part")
_TSC_TOLERANCE: Final = 1000
"""The part of a frequency by which two measurements may differ."""


def environment_of(store: Store, kernel: Path, kernel_digest: str, architecture: str) -> Environment:
    """Of this host, for machines of QEMU with that kernel. MissingProgramError."""
    qemu = choose_qemu(kernel, kernel_digest, HostFacts(store.machines / "host.json"), architecture)
    return Environment(
        vmm=qemu.identity(), accelerator=qemu.accelerator, processor=_processor(), tsc_khz=qemu.tsc_khz or 0
    )


def check_environment(store: Store, snapshot: Snapshot, settings: Settings) -> None:
    """UnusableError where the snapshot was made in another."""
    spec = settings.spec
    if not spec.kernel.exists():
        raise _foreign(snapshot, "its kernel is gone")
    ours = environment_of(store, spec.kernel, settings.kernel_digest, spec.architecture)
    theirs = snapshot.environment
    if theirs.vmm != ours.vmm:
        raise _foreign(snapshot, "it was made by another QEMU")
    if theirs.accelerator != ours.accelerator:
        raise _foreign(snapshot, f"it was made under {theirs.accelerator.upper()}")
    if theirs.processor != ours.processor:
        raise _foreign(snapshot, "it was made on another processor")
    if abs(theirs.tsc_khz - ours.tsc_khz) > ours.tsc_khz // _TSC_TOLERANCE:
        raise _foreign(snapshot, "the processor's clock has another frequency now")


def _foreign(snapshot: Snapshot, what: str) -> UnusableError:
    return UnusableError(
        f'the snapshot "{snapshot.name}" cannot be used here: {what}', hint="make a new one: firekiln snapshot create"
    )


def _processor() -> str:
    """A digest of what /proc/cpuinfo says of the first processor and what it can."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    telling = [line for line in first.splitlines() if line.startswith(_TELLING)]
    return hashlib.sha256("\n".join(telling).encode()).hexdigest()[:16]
