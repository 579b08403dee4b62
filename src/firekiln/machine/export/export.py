"""An image of the store, written in one of the formats: the only place of exports that touches store and host."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from firekiln.errors import UsageError
from firekiln.machine.export.files import Beside, NewFiles, encode, export_errors, new_folder
from firekiln.machine.export.formats import write_file_system, write_qcow2, write_stream
from firekiln.machine.export.meter import Meter, Progress
from firekiln.machine.export.output import (
    STDOUT,
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
from firekiln.rootfs.tree import Tree
from firekiln.store import Store, StoredImage
from firekiln.values import dataclass

if TYPE_CHECKING:
    from firekiln.machine.export.verity import Verity

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
        beside = Beside(files, dest)
        beside.write("config.json", encode(json.loads(request.image.image.encode())))
        if output.boot is None:
            beside.absent("firecracker.json", "cmdline", "initrd")
            with export_errors(dest):
                _write_image(tree, output, _Target(files=files, dest=dest, path=path, meter=meter), b"")
        else:
            from firekiln.machine.export import bootable, booting  # noqa: PLC0415 - half of what exports import

            made = bootable.file_system(store, request, output, output.boot, tree)
            target = _Target(files=files, dest=dest, path=path, meter=meter)
            with export_errors(dest):
                check = _write_image(made.flat.tree, output, target, made.seed)
            boot = booting.Booting(output=output, kernel=made.kernel, linked=made.flat.linked, verity=check)
            bootable.write_beside(beside, boot)
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
        from firekiln.machine.export import verity  # noqa: PLC0415 - few images have it

        check = verity.append_to(raw, seed=seed, progress=target.meter.hashed)
    if isinstance(output, Qcow2):
        write_qcow2(raw, output, target.path, target.meter)
    return check


def _disk(store: Store, request: Request, output: Raw, meter: Meter) -> Exported:
    from firekiln.machine.export import bootable, disk  # noqa: PLC0415 - as above

    architecture = request.image.image.platform.architecture
    if architecture != "amd64":
        raise UsageError(f"type=raw: there are disks for amd64 only, and the image is for {architecture}")
    dest = _absolute(output.dest)
    with NewFiles() as files:
        path = files.add(dest)
        beside = Beside(files, dest)
        beside.write("config.json", encode(json.loads(request.image.image.encode())))
        beside.absent("firecracker.json", "cmdline", "initrd")
        contents = bootable.disk_contents(store, request, output)
        with export_errors(dest):
            disk.write(contents, output, path, meter)
        files.commit()
        return Exported(dest=str(dest), beside=tuple(beside.paths))


def _tar(store: Store, request: Request, output: Tar, meter: Meter) -> Exported:
    from firekiln.rootfs import tar  # noqa: PLC0415 - imported by who makes archives
    from firekiln.rootfs.compression import compressed  # noqa: PLC0415 - ditto

    tree = store.layers.merged(request.image.layers)
    with _stream(output.dest) as out:
        write_stream(compressed(meter.counted(tar.pieces(tree), tree), output.compression), out)
    return Exported(dest=output.dest)


def _oci(store: Store, request: Request, output: OciArchive, meter: Meter) -> Exported:
    from firekiln.oci.archive import TarLayer, layout, make_layer  # noqa: PLC0415 - imported by who makes archives
    from firekiln.rootfs import tar  # noqa: PLC0415 - ditto

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
    from firekiln.machine.export.owner import belonging_to  # noqa: PLC0415 - imported by who writes folders
    from firekiln.sandbox.materialize import materialize  # noqa: PLC0415 - ditto

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
