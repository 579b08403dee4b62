"""One function per format: from a Tree to a file that nobody else knows yet, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import assert_never

from firekiln.machine.export.meter import Meter, occupied
from firekiln.machine.export.output import Cpio, Erofs, Ext4, FileSystem, Qcow2, Squashfs
from firekiln.machine.export.programs import find_program, run
from firekiln.rootfs import cpio, erofs, ext4
from firekiln.rootfs.algorithm import Compression
from firekiln.rootfs.tree import CHUNK, Tree
from firekiln.store.durable import write_all

Scratch = Callable[[], Path]
"""Gives another empty file on the same disk, which is gone in the end."""


def write_file_system(tree: Tree, output: FileSystem, path: Path, meter: Meter, scratch: Scratch) -> None:
    """Write `tree` to the empty file `path`. RootfsError, ExportError, MissingProgramError, OSError."""
    match output:
        case Ext4():
            write_ext4(tree, output, path, meter)
        case Qcow2():  # which `write_qcow2` makes of it
            write_ext4(tree, output, path, meter)
        case Erofs():
            meter.watch(path, tree)
            erofs.write(tree, path)
        case Squashfs():
            from firekiln.machine.export import squashfs  # noqa: PLC0415 - imported by who makes it

            squashfs.write(tree, path, output.compression, meter)
        case Cpio():
            write_cpio(tree, output, path, meter, scratch)
        case _:
            assert_never(output)


def write_ext4(tree: Tree, output: Ext4 | Qcow2, path: Path, meter: Meter) -> None:
    meter.watch(path, tree)
    ext4.write(
        tree, path, size=output.size, journal=not output.verity, label=output.label, uuid=output.uuid
    )  # fmt: skip


def write_qcow2(raw: Path, output: Qcow2, path: Path, meter: Meter) -> None:
    """The qcow2 file of a raw image."""
    program = find_program("qemu-img", "qemu-utils")
    compression = ["-c"] if output.compressed else []
    meter.watch(path, total=None if output.compressed else occupied(raw))
    run([program, "convert", "-q", "-f", "raw", "-O", "qcow2", *compression, str(raw), str(path)], raw, path)


def write_cpio(tree: Tree, output: Cpio, path: Path, meter: Meter, scratch: Scratch) -> None:
    if output.compression is Compression.NONE:
        meter.watch(path, tree)
        cpio.write(tree, path)
        return
    from firekiln.rootfs.compression import compressed  # noqa: PLC0415 - its codecs take a while to import

    plain = scratch()
    meter.watch(plain, tree)
    cpio.write(tree, plain)
    total = plain.stat().st_size
    with plain.open("rb") as source, path.open("wb") as file:
        pieces = iter(lambda: source.read(CHUNK), b"")
        write_stream(compressed(meter.counted(pieces, total=total), output.compression), file.fileno())


def write_stream(data: Iterable[bytes], out: int) -> None:
    """All pieces to a descriptor, which may be a pipe."""
    for piece in data:
        write_all(out, piece)
