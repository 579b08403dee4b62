"""One function per format: from a Tree to a file that nobody else knows yet, whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import assert_never

from firekiln.errors import ExportError, MissingProgramError
from firekiln.machine.export.meter import Meter
from firekiln.machine.export.output import Cpio, Erofs, Ext4, FileSystem, Qcow2, Squashfs
from firekiln.rootfs import cpio, erofs, ext4, tar
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
            write_squashfs(tree, output, path, meter)
        case Cpio():
            write_cpio(tree, output, path, meter)
        case _:
            assert_never(output)


def write_ext4(tree: Tree, output: Ext4 | Qcow2, path: Path, meter: Meter) -> None:
    meter.watch(path, tree)
    ext4.write(tree, path, size=output.size, label=output.label, uuid=output.uuid)


def write_qcow2(tree: Tree, output: Qcow2, path: Path, meter: Meter) -> None:
    """By way of a raw image beside it, which is gone in the end."""
    program = _program("qemu-img", "qemu-utils")
    raw = path.with_name(f"{path.name}.raw")
    try:
        write_ext4(tree, output, raw, meter)
        meter.watch(path)
        _run([program, "convert", "-q", "-f", "raw", "-O", "qcow2", *(["-c"] if output.compressed else []), raw, path])
    finally:
        raw.unlink(missing_ok=True)


def write_squashfs(tree: Tree, output: Squashfs, path: Path, meter: Meter) -> None:
    """By mksquashfs, from a tar that is never on the disk. Whole seconds only, and no sockets: squashfs's and tar's."""
    meta = tree.meta
    argv = [
        *(_program("mksquashfs", "squashfs-tools"), "-", str(path), "-tar", "-noappend", "-no-progress", "-quiet"),
        *_squashfs_compression(output.compression),
        *("-mkfs-time", "0", "-root-time", str(max(0, meta.mtime_ns // 10**9)), "-root-mode", f"{meta.mode:o}"),
        *("-root-uid", str(meta.uid), "-root-gid", str(meta.gid)),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}  # as -mkfs-time
    meter.watch(path)
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            with suppress(BrokenPipeError):  # its own words say more
                for piece in tar.pieces(tree):
                    write_all(process.stdin.fileno(), piece)
            process.stdin.close()
            complaint = process.stderr.read()
        except BaseException:
            process.kill()
            raise
    _check(argv[0], process.returncode, complaint)


def _squashfs_compression(name: str) -> Sequence[str]:
    match name:
        case "none":
            return ("-no-compression",)
        case "zstd":  # its own choice, 15, takes ten times as long for a few per cent
            return ("-comp", name, "-Xcompression-level", "3")
        case _:
            return ("-comp", name)


def write_cpio(tree: Tree, output: Cpio, path: Path, meter: Meter) -> None:
    meter.watch(path, tree)
    if output.compression is Compression.NONE:
        cpio.write(tree, path)
        return
    plain = path.with_name(f"{path.name}.plain")
    try:
        cpio.write(tree, plain)
        with plain.open("rb") as source:
            pieces = iter(lambda: source.read(CHUNK), b"")
            _write_pieces(path, compressed(meter.counted(pieces), output.compression))
    finally:
        plain.unlink(missing_ok=True)


def write_stream(data: Iterable[bytes], out: int) -> None:
    """All pieces to a descriptor, which may be a pipe."""
    for piece in data:
        write_all(out, piece)


def _write_pieces(path: Path, data: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        write_stream(data, file.fileno())


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MissingProgramError(f"{name} is not on this host", hint=f"apt-get install {package}")
    return found


def _run(argv: list[str | Path]) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    _check(str(argv[0]), done.returncode, done.stderr)


def _check(program: str, status: int, complaint: bytes) -> None:
    if status:
        lines = complaint.decode(errors="replace").strip().splitlines() or [f"exit status {status}"]
        raise ExportError(f"{Path(program).name} failed: {lines[-1]}")
