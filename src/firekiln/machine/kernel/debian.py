"""Debian's kernels, the one for clouds and the one for all hardware: packages of its archive, unpacked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from firekiln.errors import MachineError
from firekiln.machine.kernel.apt import Apt, Archive, run
from firekiln.machine.kernel.arm64 import extract_image
from firekiln.machine.kernel.bzimage import extract_elf
from firekiln.machine.kernel.catalog import Kernel, Kind, NewKernel, NewModule, add
from firekiln.machine.kernel.modules import dependencies, load_order, normal
from firekiln.machine.kernel.options import features_of, parse_options
from firekiln.values import dataclass

if TYPE_CHECKING:
    import tarfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """One of Debian's kernels. `wanted`: modules that a machine may need; which of them one does need is its VMM's or
    its disk's matter. `required`: features of options.FEATURES.
    """

    kind: Kind
    metapackage: str
    wanted: tuple[str, ...]
    required: frozenset[str]


_VERITY = ("dm_verity", "sha256_ssse3")
_CHECKSUMS = ("crc32c_generic", "crc32c_intel")
"""What ext4 asks for by a name that only modprobe could resolve."""
_FILE_SYSTEMS = (*_CHECKSUMS, "overlay", "erofs", "ext4", "squashfs")
_VIRTIO = ("virtio_mmio", "virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "virtio_balloon")
STEPS = ("loop", *"nf_tables nft_ct nft_nat nft_chain_nat nft_masq nft_reject_inet nft_limit nft_log".split())
"""What a build's step may ask for by a name that only modprobe could resolve."""
_REQUIRED = frozenset("virtio-blk virtio-console overlay erofs ext4".split())

CLOUD = Flavour(
    kind="debian",
    metapackage="linux-image-cloud",
    wanted=(*_VIRTIO, *_FILE_SYSTEMS, *_VERITY, "vmw_vsock_virtio_transport", *STEPS),
    required=_REQUIRED | {"virtio-mmio"},
)
"""For machines: small, and it boots by PVH."""

DISKS: Mapping[str, tuple[str, ...]] = {
    "virtio": ("virtio_pci", "virtio_blk", "virtio_scsi"),
    "SATA and IDE": ("ahci", "ata_piix", "sd_mod"),
    "NVMe": ("nvme",),
    "VMware's and LSI's SCSI": ("vmw_pvscsi", "mptspi", "mptsas", "megaraid_sas"),
    "Hyper-V": ("hv_storvsc",),
    "Xen": ("xen_blkfront",),
    "USB": ("xhci_pci", "ehci_pci", "usb_storage", "uas"),
}
"""Where the drive may hang that a disk image ends up on, and its modules."""
NETWORKS = ("virtio_net", "e1000", "e1000e", "igb", "vmxnet3", "hv_netvsc", "xen_netfront", "ena", "gve")
KEYBOARDS = ("usbhid", "hid_generic")

GENERIC = Flavour(
    kind="generic",
    metapackage="linux-image",
    wanted=(
        *(module for modules in DISKS.values() for module in modules),
        *("virtio_rng", "virtio_console", "virtio_balloon"),
        *(*NETWORKS, *KEYBOARDS, *_FILE_SYSTEMS, *_VERITY),
    ),
    required=_REQUIRED,
)
"""For disks that boot anywhere."""

Progress = Callable[[str], None]


def pull(
    root: Path, *, architecture: str = "amd64", archive: Archive | None = None, progress: Progress = lambda _: None
) -> Kernel:
    """Fetch the newest cloud kernel of `archive` and add it to the store at `root`. Idempotent.

    MachineError where the archive cannot be reached or its signature is wrong; MissingProgramError where apt, dpkg-deb
    or the keyring is absent.
    """
    return _pull(root, CLOUD, architecture, archive or Archive(), progress)


def pull_generic(
    root: Path, *, architecture: str = "amd64", archive: Archive | None = None, progress: Progress = lambda _: None
) -> Kernel:
    """The same for the kernel that disks carry."""
    return _pull(root, GENERIC, architecture, archive or Archive(), progress)


def _pull(root: Path, flavour: Flavour, architecture: str, archive: Archive, progress: Progress) -> Kernel:
    with tempfile.TemporaryDirectory(prefix="firekiln-kernel-") as name:
        apt = Apt(Path(name), architecture, archive)
        progress(f"reading {archive.mirror} {archive.suite}")
        apt.update()
        package, version = apt.newest(f"{flavour.metapackage}-{architecture}")
        progress(f"fetching {package} {version}")
        deb = apt.download(package, version)
        progress("unpacking")
        return add(root, unpack(deb, version=version, architecture=architecture, flavour=flavour))


def unpack(deb: Path, *, version: str, architecture: str, flavour: Flavour = CLOUD) -> NewKernel:
    """The kernel in Debian's package `deb`: its image, and the modules that its flavour wants with what they need."""
    import tarfile  # noqa: PLC0415 - who runs a machine rarely pulls a kernel

    with tempfile.TemporaryFile(dir=deb.parent) as spool:
        run(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=spool.fileno())
        spool.seek(0)
        with tarfile.open(fileobj=spool, mode="r:") as tar:
            return _from_tar(tar, version, architecture, flavour)


def _from_tar(tar: tarfile.TarFile, version: str, architecture: str, flavour: Flavour) -> NewKernel:
    image, options = b"", ""
    files: dict[str, tarfile.TarInfo] = {}
    depends: dict[str, tuple[str, ...]] = {}
    for name, member in _regular(tar):
        if name.startswith("boot/vmlinuz-"):
            image = _content(tar, member)
        elif name.startswith("boot/config-"):
            options = _content(tar, member).decode(errors="replace")
        elif name.endswith(".ko") and "/kernel/" in name:
            module = normal(name.rpartition("/")[2].removesuffix(".ko"))
            files[module] = member
            depends[module] = dependencies(_content(tar, member))
    if not image:
        raise MachineError("the package holds no kernel image")
    features = features_of(parse_options(options))
    if missing := flavour.required - features:
        raise MachineError(f"the kernel {version} lacks {', '.join(sorted(missing))}")
    return NewKernel(
        kind=flavour.kind,
        version=version,
        architecture=architecture,
        image=_bootable(image, architecture, flavour),
        modules=tuple(
            NewModule(name=name, data=_content(tar, files[name]), depends=depends[name])
            for name in load_order(flavour.wanted, depends)
        ),
        features=features,
    )


def _bootable(image: bytes, architecture: str, flavour: Flavour) -> bytes:
    """What the VMM, or a disk's boot loader, takes."""
    if architecture == "arm64":
        return extract_image(image)
    return image if flavour.kind == "generic" else extract_elf(image)


def _regular(tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    for member in tar:
        if member.isreg():
            yield member.name.removeprefix("./").removeprefix("usr/"), member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()
