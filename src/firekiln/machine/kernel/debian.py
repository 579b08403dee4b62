"""Debian's kernel for clouds: a package of its archive, unpacked."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from firekiln.errors import MachineError
from firekiln.machine.kernel.apt import Apt, Archive, run
from firekiln.machine.kernel.bzimage import extract_elf
from firekiln.machine.kernel.catalog import Kernel, NewKernel, NewModule, add
from firekiln.machine.kernel.modules import dependencies, load_order, normal
from firekiln.machine.kernel.options import features_of, parse_options

WANTED = (
    "virtio_mmio virtio_pci virtio_blk virtio_net virtio_console virtio_rng virtio_balloon "
    "overlay erofs ext4 squashfs vmw_vsock_virtio_transport"
).split()
"""Modules that a machine may need. Which of them one does need is its VMM's matter."""

_REQUIRED = frozenset("virtio-mmio virtio-blk virtio-console overlay erofs ext4".split())

Progress = Callable[[str], None]


def pull(
    root: Path, *, architecture: str = "amd64", archive: Archive | None = None, progress: Progress = lambda _: None
) -> Kernel:
    """Fetch the newest kernel of `archive` and add it to the store at `root`. Idempotent.

    MachineError where the archive cannot be reached or its signature is wrong; MissingProgramError where apt, dpkg-deb
    or the keyring is absent.
    """
    archive = archive or Archive()
    with tempfile.TemporaryDirectory(prefix="firekiln-kernel-") as name:
        apt = Apt(Path(name), architecture, archive)
        progress(f"reading {archive.mirror} {archive.suite}")
        apt.update()
        package, version = apt.newest(f"linux-image-cloud-{architecture}")
        progress(f"fetching {package} {version}")
        deb = apt.download(package, version)
        progress("unpacking")
        return add(root, unpack(deb, version=version, architecture=architecture))


def unpack(deb: Path, *, version: str, architecture: str) -> NewKernel:
    """The kernel in Debian's package `deb`: its ELF, and the modules in WANTED with what they need."""
    with tempfile.TemporaryFile(dir=deb.parent) as spool:
        run(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=spool.fileno())
        spool.seek(0)
        with tarfile.open(fileobj=spool, mode="r:") as tar:
            return _from_tar(tar, version, architecture)


def _from_tar(tar: tarfile.TarFile, version: str, architecture: str) -> NewKernel:
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
            files[module], depends[module] = member, dependencies(_content(tar, member))
    if not image:
        raise MachineError("the package holds no kernel image")
    features = features_of(parse_options(options))
    if missing := _REQUIRED - features:
        raise MachineError(f"the kernel {version} lacks {', '.join(sorted(missing))}")
    return NewKernel(
        kind="debian",
        version=version,
        architecture=architecture,
        image=extract_elf(image),
        modules=tuple(
            NewModule(name=name, data=_content(tar, files[name]), depends=depends[name])
            for name in load_order(WANTED, depends)
        ),
        features=features,
    )


def _regular(tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    for member in tar:
        if member.isreg():
            yield member.name.removeprefix("./").removeprefix("usr/"), member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()
