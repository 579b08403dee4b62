"""What is mounted in a machine: from what was asked for (`mountspec`) to drives, shares and the document's mounts.

attach     makes volumes that are missing, looks at the host's paths, and decides how each gets to the guest
prepare    writes what has to be there when the machine starts: the volumes' content, copies of the host's folders
discard    removes what would be left of a machine that came to nothing
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Final, assert_never

from firekiln.errors import UsageError
from firekiln.machine.guest.contract import Drive, DriveMount, FileMount, Mount, SharedMount, TmpfsMount
from firekiln.machine.names import random_id
from firekiln.machine.vmm.spec import BlockDevice, SharedFolder
from firekiln.machine.volumes.drives import ANONYMOUS_LABEL, CONTENT, Volume, Volumes, anonymous
from firekiln.machine.volumes.hostmounts import HostPath, check_copied, look_up, write_copies
from firekiln.machine.volumes.lock import check_free
from firekiln.machine.volumes.mountpoint import MountPoint, volumes_used
from firekiln.machine.volumes.mountspec import MountSpec
from firekiln.rootfs.lookup import resolve
from firekiln.rootfs.tree import Directory, Tree
from firekiln.store import Store
from firekiln.values import dataclass

SHARING: Final = "9p"
"""The kernel's feature (see `kernel.options`) without which folders are copied."""
_INLINE: Final = 256 << 10
"""Bytes of files in the machine document, whose limit is 1 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """A volume, the path whose content in the image it gets, and whether it gets any."""

    volume: Volume
    target: str
    copy: bool


@dataclass(slots=True, kw_only=True)
class Attachments:
    """All of a machine's mounts."""

    points: list[MountPoint] = field(default_factory=list)
    drives: list[BlockDevice] = field(default_factory=list)
    shares: list[SharedFolder] = field(default_factory=list)
    mounts: list[Mount] = field(default_factory=list)
    fillings: list[Filling] = field(default_factory=list)
    copies: dict[bool, dict[str, HostPath]] = field(default_factory=dict)

    def prepare(self, store: Store, image: Tree) -> None:
        """Write the drives. UsageError where the image has no folder at a volume's place; RootfsError; StoreError."""
        volumes = Volumes(store)
        for filling in self.fillings:
            volumes.fill(filling.volume, _content(image, filling) if filling.copy else None)
        for read_only, sources in self.copies.items():
            (drive,) = (drive for drive in self.drives if drive.serial == _copies_serial(read_only))
            write_copies(drive.path, sources, read_only=read_only)

    def discard(self, store: Store) -> None:
        """Remove the volumes that were made for this machine alone."""
        volumes = Volumes(store)
        for volume in anonymous(volumes_used(self.points), store):
            volumes.remove(volume)


def attach(
    store: Store,
    specs: Sequence[MountSpec],
    folder: Path,
    *,
    can_share: bool,
    progress: Callable[[str], None] = lambda _: None,
) -> Attachments:
    """Decide on everything, and make the volumes that are missing.

    `folder` is the machine's, which need not be there yet. `progress` is told what will not be as the user may expect.
    UsageError; ConflictError where a volume is in use.
    """
    made = Attachments()
    try:
        for spec in specs:
            _attach(made, store, spec, folder, can_share=can_share)
            if made.points[-1].how in ("copy", "file") and not spec.read_only:
                progress(_remark(made.points[-1], can_share=can_share))
        _check_modes(made)
        check_free(store.locks, volumes_used(made.points))
    except BaseException:
        made.discard(store)
        raise
    return made


def _attach(made: Attachments, store: Store, spec: MountSpec, folder: Path, *, can_share: bool) -> None:
    match spec.kind:
        case "volume":
            _attach_volume(made, Volumes(store), spec)
        case "bind":
            _attach_bind(made, spec, folder, can_share=can_share)
        case "tmpfs":
            options = (*spec.options, "ro") if spec.read_only else spec.options
            made.mounts.append(TmpfsMount(target=spec.target, size=spec.size, mode=spec.mode, options=options))
            made.points.append(MountPoint(kind="tmpfs", target=spec.target, read_only=spec.read_only, how="memory"))
        case _:
            assert_never(spec.kind)


def _attach_volume(made: Attachments, volumes: Volumes, spec: MountSpec) -> None:
    labels = dict(spec.labels) if spec.source else {**spec.labels, ANONYMOUS_LABEL: ""}
    volume = volumes.create(spec.source or random_id(), labels=labels, options=spec.volume_options)
    point = MountPoint(
        kind="volume", target=spec.target, source=str(volume.drive), name=volume.name, read_only=spec.read_only
    )
    made.points.append(point)
    known = [drive for drive in made.drives if drive.path == volume.drive]
    if not known:
        serial = f"volume{sum(drive.serial.startswith('volume') for drive in made.drives)}"
        known = [BlockDevice(serial=serial, path=volume.drive, readonly=spec.read_only)]
        made.drives += known
        made.fillings.append(Filling(volume=volume, target=spec.target, copy=spec.copy and spec.subpath is None))
    made.mounts.append(
        DriveMount(
            target=spec.target,
            drive=Drive(serial=known[0].serial),
            read_only=spec.read_only,
            subpath=f"{CONTENT}/{spec.subpath}" if spec.subpath else CONTENT,
        )
    )


def _attach_bind(made: Attachments, spec: MountSpec, folder: Path, *, can_share: bool) -> None:
    found = look_up(spec)
    how = "file"
    if found.is_folder and can_share:
        how = "share"
        tag = f"share{len(made.shares)}"
        made.shares.append(SharedFolder(tag=tag, path=found.path, readonly=spec.read_only))
        made.mounts.append(SharedMount(target=spec.target, type="9p", tag=tag, read_only=spec.read_only))
    elif found.data is not None and not spec.read_only and _inline(made) + len(found.data) <= _INLINE:
        made.mounts.append(FileMount(target=spec.target, data=found.data, mode=found.mode))
    else:
        how = "copy"
        _copy(made, spec, check_copied(found), folder)
    made.points.append(
        MountPoint(kind="bind", target=spec.target, source=spec.source, read_only=spec.read_only, how=how)
    )


def _inline(made: Attachments) -> int:
    return sum(len(mount.data) for mount in made.mounts if isinstance(mount, FileMount))


def _copy(made: Attachments, spec: MountSpec, found: HostPath, folder: Path) -> None:
    serial = _copies_serial(spec.read_only)
    sources = made.copies.setdefault(spec.read_only, {})
    if not sources:
        made.drives.append(BlockDevice(serial=serial, path=folder / serial, readonly=spec.read_only))
    part = str(len(sources))
    sources[part] = found
    made.mounts.append(
        DriveMount(target=spec.target, drive=Drive(serial=serial), read_only=spec.read_only, subpath=part)
    )


def _copies_serial(read_only: bool) -> str:
    return "copies-ro" if read_only else "copies-rw"


def _remark(point: MountPoint, *, can_share: bool) -> str:
    what = f"{point.source} is copied into the machine: what the machine changes there, the host won't see"
    if not can_share and os.path.isdir(point.source):  # noqa: PTH112 - a path as text
        return f"{what} (its kernel can't share folders; `firekiln kernel build` makes one that can)"
    return f"{what} (mount its folder to share it, or add :ro)"


def _check_modes(made: Attachments) -> None:
    """A drive is one block device of the guest, whose file system is writable or not as a whole."""
    modes: dict[str, bool] = {}
    for point in made.points:
        if point.kind == "volume" and modes.setdefault(point.name, point.read_only) != point.read_only:
            raise UsageError(f'volume "{point.name}": one machine can\'t mount it both read-only and writable')


def _content(image: Tree, filling: Filling) -> Directory | None:
    """What the image has at the volume's place; a directory that no other place leads to is taken as it is."""
    found = resolve(image, os.fsencode(filling.target)).node
    if found is None:
        return None
    if not isinstance(found, Directory):
        raise UsageError(f"{filling.target}: a volume can't be mounted there, where the image has no directory")
    return found
