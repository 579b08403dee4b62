"""An image of the store, written in one of the formats: the only place of exports that touches store and host."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from firekiln.errors import UsageError
from firekiln.machine.channel import Console
from firekiln.machine.contract import FlatRoot, MachineDocument
from firekiln.machine.export import booting, disk, verity
from firekiln.machine.export.booting import Booting
from firekiln.machine.export.files import NewFiles, export_errors, new_folder
from firekiln.machine.export.flat import Flat, compose
from firekiln.machine.export.formats import write_file_system, write_qcow2, write_stream
from firekiln.machine.export.meter import Meter, Progress
from firekiln.machine.export.output import (
    STDOUT,
    Boot,
    Cpio,
    Erofs,
    Ext4,
    FileSystem,
    Folder,
    OciArchive,
    Output,
    Qcow2,
    Raw,
    Squashfs,
    Tar,
)
from firekiln.machine.export.owner import belonging_to
from firekiln.machine.export.verity import Verity
from firekiln.machine.guestbin import pid1_path
from firekiln.machine.initramfs import KernelModule, base_initramfs
from firekiln.machine.kernel import Kernel, bzimage_file, intact_kernel, kernel_file, pull, pull_generic
from firekiln.machine.process import Overrides, Process
from firekiln.oci.archive import TarLayer, layout, make_layer
from firekiln.rootfs import tar
from firekiln.rootfs.compression import compressed
from firekiln.rootfs.tree import Tree
from firekiln.sandbox.materialize import materialize
from firekiln.store import Store, StoredImage

_HOSTNAME = 12
Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to export. `kernel`: the one that boots it, the store's where None.

    `progress` is told bytes, `notice` a line for people where something is not as they may expect.
    """

    image: StoredImage
    output: Output
    kernel: Path | None = None
    progress: Progress | None = None
    notice: Notice = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: the destination, and the files beside it."""

    dest: str
    beside: tuple[Path, ...] = ()


def export(store: Store, request: Request) -> Exported:
    """Write an image. What lies beside it appears first, it itself last; nothing does before all are whole.

    UsageError for what the image can't become, RootfsError for what the format can't hold, ExportError where the
    destination can't be written, MissingProgramError for a program that the format needs.
    """
    with store.using_blobs(), Meter(request.progress) as meter:
        match request.output:
            case Ext4() | Qcow2() | Erofs() | Squashfs() | Cpio():
                return _file_system(store, request, request.output, meter)
            case Raw():
                return _disk(store, request, request.output, meter)
            case Tar():
                return _tar(store, request, request.output, meter)
            case OciArchive():
                return _oci(store, request, request.output, meter)
            case Folder():
                return _folder(store, request, request.output, meter)
            case _:
                assert_never(request.output)


def _file_system(store: Store, request: Request, output: FileSystem, meter: Meter) -> Exported:
    dest = _absolute(output.dest)
    tree = store.layers.merged(request.image.layers)
    with NewFiles() as files:
        path = files.add(dest)
        beside = _Beside(files, dest)
        beside.write("config.json", booting.encode(json.loads(request.image.image.encode())))
        if output.boot is None:
            beside.absent("firecracker.json", "cmdline", "initrd")
            with export_errors(dest):
                _write_image(tree, output, _Target(files=files, dest=dest, path=path, meter=meter), b"")
        else:
            kernel = _kernel(store, request, _features(output))
            flat = _flat(tree, request.image, output, output.boot, kernel)
            target = _Target(files=files, dest=dest, path=path, meter=meter)
            with export_errors(dest):
                check = _write_image(flat.tree, output, target, _seed(request.image, output.boot, kernel))
            _write_booting(beside, Booting(output=output, kernel=kernel, linked=flat.linked, verity=check))
        files.commit()
        return Exported(dest=str(dest), beside=tuple(beside.paths))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where an image is written to, `path`, before it is at `dest`."""

    files: NewFiles
    dest: Path
    path: Path
    meter: Meter

    def scratch(self) -> Path:
        return self.files.scratch(self.dest)


def _write_image(tree: Tree, output: FileSystem, target: _Target, seed: bytes) -> Verity | None:
    raw = target.scratch() if isinstance(output, Qcow2) else target.path
    write_file_system(tree, output, raw, target.meter, target.scratch)
    check = None
    if not isinstance(output, Cpio) and output.verity:
        check = verity.append_to(raw, seed=seed, progress=target.meter.hashed)
    if isinstance(output, Qcow2):
        write_qcow2(raw, output, target.path, target.meter)
    return check


def _disk(store: Store, request: Request, output: Raw, meter: Meter) -> Exported:
    architecture = request.image.image.platform.architecture
    if architecture != "amd64":
        raise UsageError(f"type=raw: there are disks for amd64 only, and the image is for {architecture}")
    dest = _absolute(output.dest)
    with NewFiles() as files:
        path = files.add(dest)
        beside = _Beside(files, dest)
        beside.write("config.json", booting.encode(json.loads(request.image.image.encode())))
        beside.absent("firecracker.json", "cmdline", "initrd")
        kernel, modules = _disk_kernel(store, request, _features(output))
        tree = store.layers.merged(request.image.layers)
        contents = disk.Contents(
            flat=_flat(tree, request.image, output, output.boot, kernel),
            hostname=_hostname(request.image, output.boot),
            kernel=kernel.image.read_bytes(),
            initrd=base_initramfs(pid1_path(architecture).read_bytes(), modules),
            seed=_seed(request.image, output.boot, kernel),
        )
        with export_errors(dest):
            disk.write(contents, output, path, meter)
        files.commit()
        return Exported(dest=str(dest), beside=tuple(beside.paths))


def _disk_kernel(store: Store, request: Request, features: frozenset[str]) -> tuple[Kernel, Sequence[KernelModule]]:
    """The kernel as GRUB wants it, and all modules that a disk may need."""
    if request.kernel is not None:
        return bzimage_file(request.kernel, "amd64"), ()
    kernel = intact_kernel(store, "amd64", generic=True, features=features)
    if kernel is None:
        request.notice("fetching Debian's kernel for all hardware")
        kernel = pull_generic(store.root, progress=request.notice)
    return kernel, booting.loaded(kernel, (module.name for module in kernel.modules))


def _features(output: FileSystem | Raw) -> frozenset[str]:
    return frozenset({"dm-verity"}) if not isinstance(output, Cpio) and output.verity else frozenset()


def _seed(image: StoredImage, boot: Boot, kernel: Kernel) -> bytes:
    """Stands for all that a bootable image is made of; what must be another image's own is derived from it."""
    return f"{image.digest} {_hostname(image, boot)} {kernel.digest}".encode()


def _hostname(image: StoredImage, boot: Boot) -> str:
    return boot.hostname or image.digest.removeprefix("sha256:")[:_HOSTNAME]


class _Beside:
    """The files beside an image, `DEST.SUFFIX`."""

    def __init__(self, files: NewFiles, dest: Path) -> None:
        self.dest = dest
        self.paths: list[Path] = []
        self._files = files

    def write(self, suffix: str, data: bytes) -> Path:
        path = self._path(suffix)
        self._files.write(path, data)
        self.paths.append(path)
        return path

    def absent(self, *suffixes: str) -> None:
        for suffix in suffixes:
            self._files.absent(self._path(suffix))

    def _path(self, suffix: str) -> Path:
        return self.dest.with_name(f"{self.dest.name}.{suffix}")


def _write_booting(beside: _Beside, boot: Booting) -> None:
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
        beside.write("firecracker.json", booting.encode(boot.firecracker(beside.dest, initrd)))


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


def _tar(store: Store, request: Request, output: Tar, meter: Meter) -> Exported:
    tree = store.layers.merged(request.image.layers)
    with _stream(output.dest) as out:
        write_stream(compressed(meter.counted(tar.pieces(tree), tree), output.compression), out)
    return Exported(dest=output.dest)


def _oci(store: Store, request: Request, output: OciArchive, meter: Meter) -> Exported:
    references = [output.name] if output.name else request.image.references
    with ExitStack() as stack:
        out = stack.enter_context(_stream(output.dest))
        layers: list[TarLayer] = []
        for layer in request.image.layers:
            path = stack.enter_context(store.blobs.spool())
            tree = store.layers.tree(layer)
            meter.watch(path)
            with export_errors(path):
                made = make_layer(tree, path, output.compression)
            store.layers.record_diff_id(layer, made.diff_id)
            layers.append(made)
        archive = layout(request.image.image, layers, references, request.image.annotations)
        write_stream(meter.counted(tar.pieces(archive), archive), out)
    return Exported(dest=output.dest)


def _folder(store: Store, request: Request, output: Folder, meter: Meter) -> Exported:
    dest = _absolute(output.dest)
    tree = store.layers.merged(request.image.layers)
    if os.geteuid() != 0:
        request.notice("owners, devices and extended attributes are left out, since only root can give them")
        tree = belonging_to(tree, uid=os.geteuid(), gid=os.getegid())
    with new_folder(dest) as fd:
        materialize(tree, fd, progress=lambda done: meter.count(done, tree))
    return Exported(dest=str(dest))


@contextmanager
def _stream(dest: str) -> Iterator[int]:
    """A descriptor to write to: standard output, or a file that is at `dest` once the block is left."""
    if dest == STDOUT:
        sys.stdout.flush()
        if os.isatty(1):
            raise UsageError("refusing to write an archive to the terminal", hint="give dest=FILE, or redirect it")
        yield 1
        return
    path = _absolute(dest)
    with NewFiles() as files:
        temporary = files.add(path)
        with export_errors(path), temporary.open("wb", buffering=0) as file:
            yield file.fileno()
        files.commit()


def _absolute(dest: str) -> Path:
    return Path(os.path.abspath(Path(dest).expanduser()))  # noqa: PTH100 - resolve() would follow links
