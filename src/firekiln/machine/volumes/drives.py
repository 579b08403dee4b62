"""Named volumes: persistent ext4 drives of the store. `gc` never takes them.

    <root>/volumes/NAME/volume.json   when it was made, its labels and options; written once
    <root>/volumes/NAME/data          the drive, a sparse file; made when the volume is first used
    ROOT/lock                         holds a byte for each volume: who runs a machine with it keeps that locked

What a machine sees is the folder CONTENT of the drive: its root has a lost+found, with which initdb and others would
refuse it. The file system has a journal: what a guest has synced survives any end of its machine.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Final

from firekiln.errors import ConflictError, FirekilnError, MachineError, UsageError
from firekiln.machine.volumes.lock import volume_lock
from firekiln.machine.volumes.mountspec import is_volume_name, parse_size
from firekiln.rootfs.tree import Directory, Meta, Node
from firekiln.store import Store
from firekiln.store.durable import fsync_directory, fsync_file, store_errors
from firekiln.values import dataclass

ANONYMOUS_LABEL: Final = "com.docker.volume.anonymous"
CONTENT: Final = "content"
DEFAULT_SIZE: Final = 10 << 30
_SMALLEST: Final = 8 << 20
_NAMES_KEPT_BACK: Final = frozenset({".", ".."})


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of a drive: `total` bytes, or what it holds and `extra` bytes more."""

    total: int | None = None
    extra: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One volume. `size` is that of its file system, in bytes; `folder` where it lies."""

    name: str
    folder: Path
    created_ns: int
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    size: int = DEFAULT_SIZE

    @property
    def is_anonymous(self) -> bool:
        return ANONYMOUS_LABEL in self.labels

    @property
    def drive(self) -> Path:
        return self.folder / "data"

    @property
    def used(self) -> int:
        """Bytes that it takes of the host's disk."""
        try:
            return self.drive.stat().st_blocks * 512
        except FileNotFoundError:
            return 0


class VolumeNotFoundError(FirekilnError):
    """No volume bears that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"get {name}: no such volume", hint="`firekiln volume ls` lists what is there")


class Volumes:
    """The volumes of one store. Several processes may use it at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.root / "volumes"

    def list(self) -> list[Volume]:
        """All of them, by name."""
        try:
            names = sorted(path.name for path in self._folder.iterdir())
        except FileNotFoundError:
            return []
        return [volume for name in names if is_volume_name(name) and (volume := self._read(name)) is not None]

    def get(self, name: str) -> Volume:
        """VolumeNotFoundError."""
        volume = self.find(name)
        if volume is None:
            raise VolumeNotFoundError(name)
        return volume

    def find(self, name: str) -> Volume | None:
        return self._read(name) if is_volume_name(name) else None

    def create(
        self, name: str, *, labels: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None
    ) -> Volume:
        """The volume of that name, made where there is none, in which case it gets labels and options. UsageError."""
        size = _size(options or {})
        if not is_volume_name(name) or name in _NAMES_KEPT_BACK:
            raise UsageError(
                f'create {name}: "{name}" includes invalid characters for a local volume name',
                hint="two or more letters, digits, '_', '.' or '-', a letter or digit first",
            )
        known = self._read(name)
        if known is not None:
            return known
        made = Volume(
            name=name,
            folder=self._folder / name,
            created_ns=time.time_ns(),
            labels=dict(labels or {}),
            options=dict(options or {}),
            size=size,
        )
        self._write(made)
        found = self._read(name)
        return found or made

    def fill(self, volume: Volume, content: Directory | None) -> None:
        """Make the drive if it was never made, with `content`; so too where nothing was ever put on it.

        A volume that some machine uses is left as it is. MachineError where the content doesn't fit.
        """
        lock = self._store.locks.try_acquire(volume_lock(volume.name))
        if lock is None:
            return
        with lock:
            if not volume.drive.exists() or (content is not None and content.children and _is_empty(volume.drive)):
                self._format(volume, content or Directory(meta=Meta(mode=0o755)))

    def remove(self, volume: Volume) -> None:
        """Delete it. ConflictError where a machine runs with it. The caller has seen to it that none will want it."""
        lock = self._store.locks.try_acquire(volume_lock(volume.name))
        if lock is None:
            raise ConflictError(f"remove {volume.name}: volume is in use by a running machine")
        with lock, store_errors(volume.folder, "cannot remove the volume"):
            grave = Path(tempfile.mkdtemp(prefix="volume.", dir=self._store.temporary.folder))
            try:
                volume.folder.rename(grave / "volume")
            except FileNotFoundError:
                return
            shutil.rmtree(grave, ignore_errors=True)

    def _read(self, name: str) -> Volume | None:
        folder = self._folder / name
        try:
            data = json.loads((folder / "volume.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise MachineError(f"{folder}/volume.json is damaged: {error}") from error
        return Volume(
            name=name,
            folder=folder,
            created_ns=data["created_ns"],
            labels=data["labels"],
            options=data["options"],
            size=_size(data["options"]),
        )

    def _write(self, volume: Volume) -> None:
        document = {"created_ns": volume.created_ns, "labels": volume.labels, "options": volume.options}
        with store_errors(volume.folder, "cannot make the volume"):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix="volume.", dir=self._store.temporary.folder))
            (made / "volume.json").write_text(json.dumps(document))
            fsync_file(made / "volume.json")
            try:
                made.rename(volume.folder)
            except OSError:
                if not volume.folder.exists():  # else another process was faster
                    raise
                shutil.rmtree(made)
            fsync_directory(self._folder)

    def _format(self, volume: Volume, content: Directory) -> None:
        with store_errors(volume.drive, "cannot make the volume's drive"):
            fd, name = tempfile.mkstemp(prefix="volume.", dir=self._store.temporary.folder)
            os.close(fd)
            path = Path(name)
            write_drive(path, {CONTENT: content}, size=Size(total=volume.size))
            fsync_file(path)
            path.replace(volume.drive)
            fsync_directory(volume.folder)


def write_drive(path: Path, parts: Mapping[str, Node], *, size: Size) -> None:
    """An ext4 with a journal at `path`, a sparse file, each part under its name in the root. RootfsError."""
    from firekiln.rootfs import ext4  # noqa: PLC0415 - listing volumes must not wait for the writer

    root = Directory(meta=Meta(mode=0o755), children={name.encode(): part for name, part in parts.items()})
    ext4.write(root, path, size=ext4.Size(total=size.total, extra=size.extra), growth=False)


def anonymous(names: Iterable[str], store: Store) -> list[Volume]:
    """Those of the volumes `names` that are there and have no name but a number."""
    volumes = Volumes(store)
    found = (volumes.find(name) for name in names)
    return [volume for volume in found if volume is not None and volume.is_anonymous]


def _is_empty(drive: Path) -> bool:
    """Whether nothing was ever put on it. What is in its journal counts."""
    from firekiln.errors import RootfsError  # noqa: PLC0415 - beside its only use
    from firekiln.rootfs import ext4  # noqa: PLC0415 - as above

    try:
        content = ext4.read(drive).children.get(CONTENT.encode())
        return isinstance(content, Directory) and not content.children
    except RootfsError:
        return False  # not ours to overwrite, whatever it is


def _size(options: Mapping[str, str]) -> int:
    unknown = sorted(set(options) - {"size"})
    if unknown:
        raise UsageError(f'create: invalid option: "{unknown[0]}"', hint="--opt size=20g is what a volume takes")
    if "size" not in options:
        return DEFAULT_SIZE
    size = parse_size(options["size"])
    if size is None or size < _SMALLEST:
        raise UsageError(f"--opt size={options['size']}: not a size of a volume", hint="8m is the least; 10g the habit")
    return size
