"""Folders and files of the host in a machine: shared by 9p where its kernel has that, else copied.

A copy is a drive of the machine's own, made when the machine is: `copies-ro` and `copies-rw` in its folder hold what
`-v` named, as `0`, `1` and so on. What a guest writes there lives as long as its machine, and the host never sees it.
A small file of root's rides in the machine document, and needs no drive.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from firekiln.errors import UsageError
from firekiln.machine.volumes.drives import Size, write_drive
from firekiln.machine.volumes.mountspec import MountSpec
from firekiln.rootfs import directory
from firekiln.rootfs.tree import Node
from firekiln.store.durable import store_errors
from firekiln.values import dataclass

_INLINE: Final = 64 << 10
"""Bytes of a file that the machine document carries, whose limit is 1 MiB."""
_ROOM: Final = 10 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPath:
    """What lies at a bind's source. `data` and `mode` are there of a file that rides in the document."""

    path: Path
    is_folder: bool
    data: bytes | None = None
    mode: int = 0


def look_up(spec: MountSpec) -> HostPath:
    """What `spec` means on this host; a missing folder is made where it asks for that. UsageError."""
    source = Path(spec.source)
    try:
        if spec.create_source and not source.exists():
            source.mkdir(parents=True)
        path = source.resolve(strict=True)
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return HostPath(path=path, is_folder=True)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(
                f"{source}: only folders and regular files of the host can be mounted",
                hint="a socket or device of the host means nothing to another kernel; publish a port instead",
            )
        small = status.st_size <= _INLINE and status.st_uid == status.st_gid == 0
        data = path.read_bytes() if small else None
    except FileNotFoundError as error:
        raise UsageError(f'invalid mount config for type "bind": bind source path does not exist: {source}') from error
    except OSError as error:
        raise UsageError(f"{source}: {(error.strerror or str(error)).lower()}") from error
    return HostPath(path=path, is_folder=False, data=data, mode=stat.S_IMODE(status.st_mode))


def write_copies(drive: Path, sources: Mapping[str, HostPath], *, read_only: bool) -> None:
    """Make a drive of what lies at `sources` now. RootfsError where something can't be read; StoreError."""
    parts = {name: _node(source) for name, source in sources.items()}
    with store_errors(drive, "cannot copy the host's files to"):
        drive.touch(mode=0o600)
        write_drive(drive, parts, size=Size(extra=0 if read_only else _ROOM))


def check_copied(source: HostPath) -> HostPath:
    """UsageError for what no drive can hold."""
    if source.path == Path("/"):
        raise UsageError(
            "/: the whole host can't be copied into a machine", hint="mount the folder that the machine needs"
        )
    return source


def _node(source: HostPath) -> Node:
    if source.is_folder:
        return directory.read(source.path, xattrs=True)
    node = directory.read(source.path.parent, xattrs=True).children.get(source.path.name.encode())
    if node is None:
        raise UsageError(f"{source.path}: it has just vanished")
    return node
