"""QEMU's machines, one for each architecture of a guest.

`microvm` is what x86-64 has: no BIOS, no PCI, the kernel entered by PVH. arm64 has no such machine; `virt` comes near:
virtio over MMIO too, the kernel entered without firmware. Which words are there, and which are not, was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from firekiln.errors import MachineError
from firekiln.machine.vmm.spec import Accelerator
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A machine of QEMU's. `host` is what uname(2) calls the hosts that may run it by KVM.

    `places` is the number of virtio devices that it has room for. `emulated_cpu` is -cpu's word under TCG. `console` is
    the kernel's name of its serial port, `restart` the kernel's word for how a guest resets itself.
    """

    host: str
    program: str
    package: str
    words: tuple[str, ...]
    places: int
    emulated_cpu: str
    hardware_cpu: str
    console: str
    restart: tuple[str, ...]

    @property
    def hint(self) -> str:
        """How to get QEMU for it."""
        return f"apt-get install {self.package} (Debian, Ubuntu)"

    def cpu(self, accelerator: Accelerator) -> str:
        return self.hardware_cpu if accelerator == "kvm" else self.emulated_cpu


MICROVM: Final = Board(
    host="x86_64",
    program="qemu-system-x86_64",
    package="qemu-system-x86",
    # rtc=off would cost two seconds: the kernel then waits for a clock that is not there.
    words=("-M", "microvm,x-option-roms=off,isa-serial=on,rtc=on"),
    places=24,
    # Linux copies by `rep movsb` where the CPU calls that fast; TCG goes byte by byte: a boot costs a sixth more.
    emulated_cpu="max,-erms,-fsrm",
    hardware_cpu="max",
    console="ttyS0",
    restart=("reboot=t",),
)

VIRT: Final = Board(
    host="aarch64",
    program="qemu-system-aarch64",
    package="qemu-system-arm",
    words=("-M", "virt,gic-version=max,acpi=off", "-global", "virtio-mmio.force-legacy=false"),
    places=32,
    # A boot with signed pointers takes 5.4 s here rather than 3.1; QEMU before 7.1 lacks cheaper CPUs of late.
    emulated_cpu="max,pauth=off",
    hardware_cpu="host",
    console="ttyAMA0",
    restart=(),  # by PSCI
)

BOARDS: Final[Mapping[str, Board]] = {"amd64": MICROVM, "arm64": VIRT}


def board_of(architecture: str) -> Board:
    """The machine for guests of an OCI architecture. MachineError where there is none."""
    board = BOARDS.get(architecture)
    if board is None:
        raise MachineError(
            f"a machine for linux/{architecture} cannot be run",
            hint="build for linux/amd64 or linux/arm64 (--platform)",
        )
    return board
