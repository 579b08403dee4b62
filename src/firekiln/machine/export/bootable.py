"""What an image needs of store and host to boot by itself: its machine document, PID 1, a kernel, and files beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from firekiln.errors import UsageError
from firekiln.machine.export import booting, disk
from firekiln.machine.export.booting import Booting
from firekiln.machine.export.files import Beside, encode
from firekiln.machine.export.flat import Flat, compose
from firekiln.machine.export.output import Boot, Cpio, FileSystem, Qcow2, Raw
from firekiln.machine.guest.binary import pid1_path
from firekiln.machine.guest.channel import Console
from firekiln.machine.guest.contract import FlatRoot, MachineDocument
from firekiln.machine.guest.initramfs import KernelModule, base_initramfs
from firekiln.machine.kernel import Kernel, bzimage_file, intact_kernel, kernel_file, pull, pull_generic
from firekiln.machine.process import Overrides, Process
from firekiln.rootfs.tree import Tree
from firekiln.store import Store, StoredImage
from firekiln.values import dataclass

if TYPE_CHECKING:
    from firekiln.machine.export.export import Request

_HOSTNAME = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootable:
    """An image that boots by `kernel`. `seed` stands for all that it is made of: what must be its own is derived."""

    flat: Flat
    kernel: Kernel
    seed: bytes


def file_system(store: Store, request: Request, output: FileSystem, boot: Boot, tree: Tree) -> Bootable:
    """What `tree`, the image's, becomes as a flat image. UsageError, RootfsError."""
    kernel = _kernel(store, request, _features(output))
    flat = _flat(tree, request.image, output, boot, kernel)
    return Bootable(flat=flat, kernel=kernel, seed=_seed(request.image, boot, kernel))


def disk_contents(store: Store, request: Request, output: Raw) -> disk.Contents:
    """What a disk of the image holds. UsageError, RootfsError."""
    architecture = request.image.image.platform.architecture
    kernel, modules = _disk_kernel(store, request, _features(output))
    tree = store.layers.merged(request.image.layers)
    return disk.Contents(
        flat=_flat(tree, request.image, output, output.boot, kernel),
        hostname=_hostname(request.image, output.boot),
        kernel=kernel.image.read_bytes(),
        initrd=base_initramfs(pid1_path(architecture).read_bytes(), modules),
        seed=_seed(request.image, output.boot, kernel),
    )


def write_beside(beside: Beside, boot: Booting) -> None:
    """How to boot the image: the files `DEST.cmdline` and the like."""
    beside.write("cmdline", boot.command_line().encode() + b"\n")
    initrd = beside.dest if isinstance(boot.output, Cpio) else None
    modules = [] if isinstance(boot.output, Cpio) else booting.modules(boot.kernel, boot.output)
    if modules or boot.verity is not None:
        pid1 = pid1_path(boot.kernel.architecture).read_bytes()
        initrd = beside.write("initrd", base_initramfs(pid1, modules))
    else:
        beside.absent("initrd")
    if isinstance(boot.output, Qcow2):  # Firecracker reads raw images only
        beside.absent("firecracker.json")
    else:
        beside.write("firecracker.json", encode(boot.firecracker(beside.dest, initrd)))


def _disk_kernel(store: Store, request: Request, features: frozenset[str]) -> tuple[Kernel, Sequence[KernelModule]]:
    """The kernel as GRUB wants it, and all modules that a disk may need."""
    if request.kernel is not None:
        return bzimage_file(request.kernel, "amd64"), ()
    kernel = intact_kernel(store, "amd64", generic=True, features=features)
    if kernel is None:
        request.notice("fetching Debian's kernel for all hardware")
        kernel = pull_generic(store.root, progress=request.notice)
    return kernel, booting.loaded(kernel, (module.name for module in kernel.modules))


def _kernel(store: Store, request: Request, features: frozenset[str]) -> Kernel:
    architecture = request.image.image.platform.architecture
    if request.kernel is not None:
        return kernel_file(store.root, request.kernel, architecture)
    kernel = intact_kernel(store, architecture, features=features)
    if kernel is None:
        lacking = f" with {', '.join(sorted(features))}" if features else ""
        request.notice(f"the store has no kernel{lacking} yet: fetching Debian's")
        kernel = pull(store.root, architecture=architecture, progress=request.notice)
    return kernel


def _flat(tree: Tree, image: StoredImage, output: FileSystem | Raw, boot: Boot, kernel: Kernel) -> Flat:
    hostname = _hostname(image, boot)
    try:
        process = Process.from_image(image.image.config, Overrides(), hostname=hostname)
    except UsageError as error:
        raise UsageError(
            f"the image can't boot by itself: {error.message}",
            hint="give it an ENTRYPOINT or CMD, or export it as plain data with boot=false",
        ) from error
    document = MachineDocument(hostname=hostname, root=FlatRoot(), process=process, channel=Console(), handshake_ms=0)
    return compose(
        tree,
        pid1=pid1_path(image.image.platform.architecture).read_bytes(),
        document=document.encode(),
        initramfs=isinstance(output, Cpio),
        modules=booting.modules(kernel, output) if isinstance(output, Cpio) else (),
    )


def _features(output: FileSystem | Raw) -> frozenset[str]:
    return frozenset({"dm-verity"}) if not isinstance(output, Cpio) and output.verity else frozenset()


def _seed(image: StoredImage, boot: Boot, kernel: Kernel) -> bytes:
    return f"{image.digest} {_hostname(image, boot)} {kernel.digest}".encode()


def _hostname(image: StoredImage, boot: Boot) -> str:
    return boot.hostname or image.digest.removeprefix("sha256:")[:_HOSTNAME]
