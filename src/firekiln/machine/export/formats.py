"""One function per format: from a Tree to a file that nobody else knows yet, whole or not at all."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import assert_never

from firekiln.machine.export import squashfs
from firekiln.machine.export.meter import Meter
from firekiln.machine.export.output import Cpio, Erofs, Ext4, FileSystem, Qcow2, Squashfs
from firekiln.machine.export.programs import check, find_program
from firekiln.rootfs import cpio, erofs, ext4
from firekiln.rootfs.compression import Compression, compressed
from firekiln.rootfs.tree import CHUNK, Tree
from firekiln.store.durable import write_all


def write_file_system(tree: Tree, output: FileSystem, path: Path, meter: Meter) -> None:
    """Write `tree` to the new file `path`. RootfsError, ExportError, MissingProgramError, OSError."""
    match output:
        case Ext4():
            write_ext4(tree, output, path, meter)
        case Qcow2():
            write_qcow2(tree, output, path, meter)
        case Erofs():
            meter.watch(path, tree)
            erofs.write(tree, path)
        case Squashfs():
            squashfs.write(tree, path, output.compression, meter)
        case Cpio():
            write_cpio(tree, output, path, meter)
        case _:
            assert_never(output)


def write_ext4(tree: Tree, output: Ext4 | Qcow2, path: Path, meter: Meter) -> None:
    meter.watch(path, tree)
    ext4.write(tree, path, size=output.size, label=output.label, uuid=output.uuid)


def write_qcow2(tree: Tree, output: Qcow2, path: Path, meter: Meter) -> None:
    """By way of a raw image beside it, which is gone in the end."""
    program = find_program("qemu-img", "qemu-utils")
    raw = path.with_name(f"{path.name}.raw")
    compression = ["-c"] if output.compressed else []
    try:
        write_ext4(tree, output, raw, meter)
        meter.watch(path)
        argv = [program, "convert", "-q", "-f", "raw", "-O", "qcow2", *compression, str(raw), str(path)]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        check(program, done.returncode, done.stderr)
    finally:
        raw.unlink(missing_ok=True)


def write_cpio(tree: Tree, output: Cpio, path: Path, meter: Meter) -> None:
    meter.watch(path, tree)
    if output.compression is Compression.NONE:
        cpio.write(tree, path)
        return
    plain = path.with_name(f"{path.name}.plain")
    try:
        cpio.write(tree, plain)
        with plain.open("rb") as source, path.open("xb") as file:
            pieces = iter(lambda: source.read(CHUNK), b"")
            write_stream(compressed(meter.counted(pieces), output.compression), file.fileno())
    finally:
        plain.unlink(missing_ok=True)


def write_stream(data: Iterable[bytes], out: int) -> None:
    """All pieces to a descriptor, which may be a pipe."""
    for piece in data:
        write_all(out, piece)
