"""squashfs by squashfs-tools' mksquashfs, fed with a tar that is never on the disk.

What a tar can't say, mksquashfs 4.5 doesn't know: its root directory gets the time of the day and the caller's ids.
So the inodes and ids are stored uncompressed, and the root's are set right before anybody else sees the file.
Offsets are those of squashfs 4.0's format (Linux, fs/squashfs/squashfs_fs.h).
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from firekiln.errors import ExportError
from firekiln.machine.export.files import inherited
from firekiln.machine.export.meter import Meter
from firekiln.machine.export.programs import check, find_program
from firekiln.rootfs import tar
from firekiln.rootfs.tree import Meta, Tree
from firekiln.store.durable import write_all

_METADATA: Final = 8192
"""Bytes of a metadata block, which two bytes of length precede."""
_IDS: Final = 26
_ROOT_INODE: Final = 32
_ID_TABLE: Final = 48
_INODE_TABLE: Final = 64
_INODE: Final = struct.Struct("<HHHI")
"""Mode, index of the owner, of the group, time of modification: what follows an inode's type."""


def write(tree: Tree, path: Path, compression: str, meter: Meter) -> None:
    """Write `tree` to the empty file `path`. Whole seconds only, no sockets, no extended attributes of the root itself.

    The same Tree gives the same bytes, where mksquashfs is the same. ExportError, MissingProgramError, RootfsError.
    """
    program = find_program("mksquashfs", "squashfs-tools")
    argv = [
        *(*_like_root(), program, "-", str(path), "-tar", "-noappend", "-no-progress", "-quiet"),
        *("-mkfs-time", "0", "-noI", "-noId", *_compression(compression)),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}  # as -mkfs-time
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        pass_fds=inherited(path),
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            with suppress(BrokenPipeError):  # its own words say more
                for piece in meter.counted(tar.pieces(tree), tree):
                    write_all(process.stdin.fileno(), piece)
            process.stdin.close()
            complaint = process.stderr.read()
        except BaseException:
            process.kill()
            raise
    check(program, process.returncode, complaint)
    _set_root(path, tree.meta)


def _like_root() -> Sequence[str]:
    """What makes mksquashfs believe that root calls it: the caller's id would be one more in its table.

    Where the host has no user namespaces for everybody, that is how it is; the image is as good, but not the same.
    """
    namespace = ("unshare", "--map-root-user")
    if os.geteuid() == 0 or shutil.which(namespace[0]) is None:
        return ()
    trial = subprocess.run([*namespace, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return () if trial.returncode else namespace


def _compression(name: str) -> Sequence[str]:
    match name:
        case "none":
            return ("-noD", "-noF", "-noX")
        case "zstd":  # its own choice, 15, takes ten times as long for a few per cent
            return ("-comp", name, "-Xcompression-level", "3")
        case _:
            return ("-comp", name)


def _set_root(path: Path, meta: Meta) -> None:
    with path.open("r+b", buffering=0) as file:
        superblock = file.read(96)
        (reference,) = struct.unpack_from("<Q", superblock, _ROOT_INODE)
        (table,) = struct.unpack_from("<Q", superblock, _INODE_TABLE)
        ids = list(_ids(file.fileno(), superblock))
        if meta.uid not in ids or meta.gid not in ids:
            raise ExportError(f"mksquashfs can't make a root directory that belongs to {meta.uid}:{meta.gid}")
        seconds = min(max(meta.mtime_ns // 10**9, 0), 0xFFFFFFFF)
        data = _INODE.pack(meta.mode, ids.index(meta.uid), ids.index(meta.gid), seconds)
        for number, byte in enumerate(data, start=(reference & 0xFFFF) + 2):
            over, offset = divmod(number, _METADATA)  # an inode may lie across two blocks
            at = table + (reference >> 16) + over * (_METADATA + 2) + 2 + offset
            os.pwrite(file.fileno(), bytes((byte,)), at)


def _ids(fd: int, superblock: bytes) -> Iterator[int]:
    """The table of user and group ids, in metadata blocks that a list of their places tells."""
    (count,) = struct.unpack_from("<H", superblock, _IDS)
    (places,) = struct.unpack_from("<Q", superblock, _ID_TABLE)
    while count > 0:
        (block,) = struct.unpack("<Q", os.pread(fd, 8, places))
        here = min(count, _METADATA // 4)
        yield from struct.unpack(f"<{here}I", os.pread(fd, here * 4, block + 2))
        places += 8
        count -= here
