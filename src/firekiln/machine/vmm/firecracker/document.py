"""What a guest of Firecracker is told in another way than one of QEMU. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from firekiln.machine.guest.channel import Vsock
from firekiln.machine.guest.contract import Drive, DriveMount, FlatRoot, MachineDocument, Mount
from firekiln.machine.vmm.spec import BlockDevice


def for_firecracker(document: MachineDocument, drives: Sequence[BlockDevice]) -> MachineDocument:
    """The document with its channel a vsock, and its drives, which bear no serials here, named by their places."""
    places = {drive.serial: Drive(index=place) for place, drive in enumerate(drives)}

    def named(drive: Drive) -> Drive:
        return drive if drive.serial is None else places[drive.serial]

    def mounted(mount: Mount) -> Mount:
        return replace(mount, drive=named(mount.drive)) if isinstance(mount, DriveMount) else mount

    root = document.root
    if not isinstance(root, FlatRoot):
        root = replace(
            root,
            layers=tuple(named(drive) for drive in root.layers),
            scratch=named(root.scratch) if root.scratch else None,
        )
    return replace(document, root=root, mounts=tuple(map(mounted, document.mounts)), channel=Vsock())
