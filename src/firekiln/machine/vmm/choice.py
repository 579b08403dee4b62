"""Which VMM runs a machine: chosen when the machine is made, and made ready when it starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from firekiln.errors import MachineError, UsageError
from firekiln.machine.vmm.backend import Vmm, found_program
from firekiln.machine.vmm.boards import board_of
from firekiln.machine.vmm.hostfacts import HostFacts
from firekiln.machine.vmm.qemu import GUEST_MODULES
from firekiln.machine.vmm.spec import MachineSpec, VmmName

if TYPE_CHECKING:
    from firekiln.machine.guest.contract import MachineDocument
    from firekiln.machine.vmm.firecracker.vmm import Jailing

Wanted: TypeAlias = Literal["auto"] | VmmName
_JAILS = "jail"
_GROUPS = Path("/sys/fs/cgroup")
_FILE_SYSTEMS = ("overlay", "erofs", "ext4")

# Firecracker's modules are imported where a machine is Firecracker's: most are not, and a supervisor is to be small.


def choose_name(wanted: Wanted, architecture: str) -> VmmName:
    """The VMM for a new machine. `auto` is QEMU, which has a network for every user; Firecracker where only that is."""
    if wanted != "auto":
        return wanted
    absent = found_program(board_of(architecture).program) is None
    return "firecracker" if absent and found_program("firecracker") else "qemu"


def fitted(name: VmmName, spec: MachineSpec, document: MachineDocument) -> MachineDocument:
    """The document as that VMM's guests must read it. UsageError for what the VMM can't give the machine."""
    if name == "qemu":
        return document
    from firekiln.machine.vmm.firecracker.configuration import configuration  # noqa: PLC0415 - see above
    from firekiln.machine.vmm.firecracker.devices import Devices  # noqa: PLC0415 - ditto
    from firekiln.machine.vmm.firecracker.document import for_firecracker  # noqa: PLC0415 - ditto

    configuration(spec, Devices(), vsock="")
    if spec.architecture != _own_architecture():
        raise UsageError(f"Firecracker emulates no processor: linux/{spec.architecture} runs by QEMU (--vmm qemu) here")
    return for_firecracker(document, spec.drives)


def guest_modules(name: VmmName) -> Sequence[str]:
    """What the VMM's guests need of the kernel."""
    if name == "qemu":
        return GUEST_MODULES
    from firekiln.machine.vmm.firecracker.configuration import MODULES  # noqa: PLC0415 - see above

    return (*MODULES, *_FILE_SYSTEMS)


def back_end(name: VmmName, spec: MachineSpec, kernel_digest: str, facts: HostFacts, folder: Path) -> Vmm:
    """The VMM, ready to launch `spec` from the machine's own `folder`, which bears the machine's id, in the store.

    MissingProgramError where it is not installed, MachineError where it must not or cannot be used.
    """
    from firekiln.machine.vmm.accel import choose_qemu, firecracker_trial, kvm_works  # noqa: PLC0415 - who creates only

    if name == "qemu":
        return choose_qemu(spec.kernel, kernel_digest, facts, spec.architecture)
    from firekiln.machine.vmm.firecracker.version import check_version  # noqa: PLC0415 - see above
    from firekiln.machine.vmm.firecracker.vmm import PROGRAM, Firecracker  # noqa: PLC0415 - ditto

    check_version(PROGRAM)
    if not kvm_works(spec.kernel, kernel_digest, facts, firecracker_trial()):
        raise MachineError(
            "Firecracker needs KVM, which runs no guest here",
            hint="firekiln doctor says what is missing; --vmm qemu emulates where there is none",
        )
    return Firecracker(folder=folder, jailing=_jailing(folder))


def _jailing(folder: Path) -> Jailing | None:
    """As root every machine has a jail; who is not root can't make one."""
    from firekiln.machine.vmm.firecracker import jailer  # noqa: PLC0415 - see above
    from firekiln.machine.vmm.firecracker.version import check_version  # noqa: PLC0415 - ditto
    from firekiln.machine.vmm.firecracker.vmm import PROGRAM, Jailing  # noqa: PLC0415 - ditto

    if os.geteuid() != 0:
        return None
    check_version(jailer.PROGRAM)
    uid = jailer.user_of(folder.name)
    unified, groups = _hierarchies()
    jail = jailer.Jail(
        id=folder.name,
        base=folder.parent.parent / _JAILS,
        executable=Path(os.path.realpath(found_program(PROGRAM) or PROGRAM)),
        uid=uid,
        gid=uid,
        unified=unified,
    )
    return Jailing(jail=jail, groups=groups)


def clear_jail(root: Path, machine_id: str) -> None:
    """Remove what is left of a machine's jail in the store at `root`, where its supervisor was killed."""
    if os.geteuid() == 0:
        import shutil  # noqa: PLC0415 - as above

        for left in (root / _JAILS).glob(f"*/{machine_id}"):
            shutil.rmtree(left, ignore_errors=True)


def _hierarchies() -> tuple[bool | None, tuple[Path, ...]]:
    """Whether the host's control groups are of version 2 (None: it has none), and where the jailer makes ours."""
    if (_GROUPS / "cgroup.controllers").exists():
        return True, (_GROUPS,)
    folders = tuple(_GROUPS / name for name in ("memory", "pids"))
    return (False, folders) if all(folder.is_dir() for folder in folders) else (None, ())


def _own_architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
