"""What boots a flat image: kernel command lines, an initramfs of modules, a configuration for Firecracker.

All of it is pure: from a kernel, a format and names to words and bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, assert_never

from firekiln.machine.export.flat import INIT
from firekiln.machine.export.output import Cpio, Erofs, Ext4, FileSystem, Qcow2, Squashfs
from firekiln.machine.export.verity import Verity
from firekiln.machine.guest.initramfs import KernelModule
from firekiln.machine.kernel import Kernel
from firekiln.machine.vmm.firecracker.configuration import COMMAND_LINE as FIRECRACKER
from firekiln.machine.vmm.qemu import COMMAND_LINE
from firekiln.machine.vmm.spec import DEFAULT_MEMORY, MIB
from firekiln.oci.config import Json
from firekiln.values import dataclass

_MODULES: Final = "virtio_mmio virtio_pci virtio_rng virtio_net"
"""What every flat image may want, its root file system aside."""
VERITY_MODULES: Final = ("sha256_ssse3", "dm_verity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Booting:
    """How the image of `output` is booted by `kernel`. `linked` is `Flat.linked`; by `verity` its root is checked."""

    output: FileSystem
    kernel: Kernel
    linked: bool
    verity: Verity | None = None

    def command_line(self) -> str:
        """The kernel's words for any VMM with a serial console, whose only disk the image is."""
        root = () if self._type is None else ("root=/dev/vda", "rw" if self._writable else "ro")
        return " ".join((*COMMAND_LINE, *root, *self._words()))

    def firecracker(self, dest: Path, initrd: Path | None) -> dict[str, Json]:
        """A file for Firecracker's `--config-file`. It adds `root=` and `rw` or `ro` itself, for its root device."""
        boot: dict[str, Json] = {
            "kernel_image_path": str(self.kernel.image.absolute()),
            "boot_args": " ".join((*FIRECRACKER, *self._words())),
        }
        if initrd is not None:
            boot["initrd_path"] = str(initrd)
        drive: dict[str, Json] = {
            "drive_id": "rootfs",
            "path_on_host": str(dest),
            "is_root_device": True,
            "is_read_only": not self._writable,
        }
        return {
            "boot-source": boot,
            "drives": [] if self._type is None else [drive],
            "machine-config": {"vcpu_count": 1, "mem_size_mib": DEFAULT_MEMORY // MIB},
        }

    def _words(self) -> tuple[str, ...]:
        kind = () if self._type is None else (f"rootfstype={self._type}",)
        check = () if self.verity is None else (self.verity.word,)
        init = "rdinit" if self._type is None else "init"
        return (*kind, *check) if self.linked else (*kind, *check, f"{init}={INIT}")

    @property
    def _type(self) -> str | None:
        return root_type(self.output)

    @property
    def _writable(self) -> bool:
        return self._type == "ext4" and self.verity is None


def root_type(output: FileSystem) -> str | None:
    """The kernel's name of the root file system; None for an initramfs."""
    match output:
        case Ext4() | Qcow2():
            return "ext4"
        case Erofs():
            return "erofs"
        case Squashfs():
            return "squashfs"
        case Cpio():
            return None
        case _:
            assert_never(output)


def modules(kernel: Kernel, output: FileSystem) -> Sequence[KernelModule]:
    """The modules without which this kernel doesn't come to, or not far with, an image of that format."""
    kind = root_type(output)
    wanted = _MODULES.split() + ([] if kind is None else ["virtio_blk", kind, "overlay"])
    if not isinstance(output, Cpio) and output.verity:
        wanted += VERITY_MODULES
    return loaded(kernel, wanted)


def loaded(kernel: Kernel, wanted: Iterable[str]) -> Sequence[KernelModule]:
    """These modules of the kernel and what they need, in the order of loading."""
    return [KernelModule(name=module.path.name, data=module.path.read_bytes()) for module in kernel.modules_for(wanted)]
