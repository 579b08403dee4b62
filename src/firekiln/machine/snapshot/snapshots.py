"""Which snapshots there are: `<root>/warm/NAME/`.

    snapshot.json      what was saved, and on a second line the digest of the first
    memory, state      the guest's memory, a sparse file, and its devices
    drives/SERIAL      the drives that it may write to
    initramfs          its own, with the machine document

A snapshot holds its image's layers and its kernel by a lease. Machines made of it need nothing of it once they run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Final

from firekiln.errors import ConflictError, FirekilnError, MachineError
from firekiln.machine.names import check_name
from firekiln.machine.snapshot.files import Seal, seal
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.vmm.backend import Saved
from firekiln.store import Store
from firekiln.store.durable import fsync_directory, fsync_file, store_errors
from firekiln.store.locks import Lock, named
from firekiln.values import dataclass

_MANIFEST: Final = "snapshot.json"
_VERSION: Final = 1


class SnapshotNotFoundError(FirekilnError):
    """No snapshot bears that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No such snapshot: {name}", hint="`firekiln snapshot ls` lists what is there")


class UnusableError(MachineError):
    """A snapshot is damaged, or was made elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a snapshot needs of a host to go on there: the very VMM and processor that it was made on."""

    vmm: str
    accelerator: str
    processor: str
    tsc_khz: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One snapshot. `settings` and `config` are those of the machine's Record; `health` as `Live` has it.

    `key` is what `run --warm` finds it by, "" for one that somebody made himself; `layers` are the digests of its
    read-only drives, `files` all that is read or copied, by name.
    """

    name: str
    folder: Path
    created_ns: int
    machine: str
    image: str
    image_digest: str
    settings: str
    config: str
    environment: Environment
    layers: tuple[str, ...]
    files: Mapping[str, Seal]
    health: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""

    @property
    def is_automatic(self) -> bool:
        return bool(self.key)

    @property
    def saved(self) -> Saved:
        return Saved(memory=self.folder / "memory", state=self.folder / "state")

    @property
    def initramfs(self) -> Path:
        return self.folder / "initramfs"

    def drive(self, serial: str) -> Path:
        return self.folder / "drives" / serial

    def decoded(self) -> Settings:
        return Settings.decode(self.settings)

    @property
    def size(self) -> int:
        """Bytes that it takes of the disk."""
        found = 0
        for name in self.files:
            with suppress(FileNotFoundError):
                found += (self.folder / name).stat().st_blocks * 512
        return found


class Snapshots:
    """The snapshots of one store. Several processes may use it at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = store.root / "warm"

    def list(self) -> list[Snapshot]:
        """All that are whole, the youngest first."""
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return []
        found: dict[str, Snapshot | None] = {}
        for name in names:
            with suppress(UnusableError):  # `rm` and `prune` take it
                found[name] = self.find(name)
        return sorted((item for item in found.values() if item is not None), key=lambda item: -item.created_ns)

    def find(self, name: str) -> Snapshot | None:
        """None where there is none. UnusableError where it is there, and its description is damaged."""
        path = self.folder / name / _MANIFEST
        if not name or "/" in name or name.startswith("."):
            return None
        try:
            text, _, digest = path.read_text().partition("\n")
            if digest.strip() != _digest(text):
                raise corrupted(name, f"{_MANIFEST} is not what was saved")
            data = json.loads(text)
            if data.pop("version") != _VERSION:
                raise corrupted(name, f"it is not of version {_VERSION}")
            environment = Environment(**data.pop("environment"))
            files = {file: Seal(**value) for file, value in data.pop("files").items()}
            layers = tuple(data.pop("layers"))
            return Snapshot(folder=path.parent, environment=environment, files=files, layers=layers, **data)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise corrupted(name, f"its description cannot be read ({error})") from error

    def get(self, name: str) -> Snapshot:
        """SnapshotNotFoundError."""
        found = self.find(name)
        if found is None:
            raise SnapshotNotFoundError(name)
        return found

    def making(self, name: str) -> Lock:
        """The right to make a snapshot of that name. ConflictError where there is one, or somebody makes it."""
        check_name(name)
        lock = self._store.locks.try_acquire(_lock(name))
        if lock is None or (self.folder / name).exists():
            if lock is not None:
                lock.release()
            raise ConflictError(
                f'a snapshot "{name}" is there already, or being made',
                hint=f"firekiln snapshot rm {name}, or another name",
            )
        return lock

    def publish(self, snapshot: Snapshot, blobs: Iterable[str]) -> Snapshot:
        """Give what lies in `snapshot.folder` its name; `blobs` are held for it. StoreError."""
        self._store.leases.hold(lease_name(snapshot.name), blobs)
        place = self.folder / snapshot.name
        data = {key: value for key, value in asdict(snapshot).items() if key != "folder"}
        with store_errors(place, "cannot make the snapshot"):
            text = json.dumps({"version": _VERSION, **data})
            (snapshot.folder / _MANIFEST).write_text(f"{text}\n{_digest(text)}\n")
            fsync_file(snapshot.folder / _MANIFEST)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            snapshot.folder.rename(place)
            fsync_directory(self.folder)
        self._store.integrity.trust([place / name for name in snapshot.files])
        return self.get(snapshot.name)

    def check(self, snapshot: Snapshot) -> None:
        """UnusableError where a file is not what it was. Each is read once after a boot of the host, or a change."""
        for name, wanted in snapshot.files.items():
            path = snapshot.folder / name
            if not path.exists():
                raise corrupted(snapshot.name, f"{name} is gone")
            if self._store.integrity.is_known(path):
                continue
            with store_errors(path, "cannot read"):
                if seal(path) != wanted:
                    raise corrupted(snapshot.name, f"{name} is not what was saved")
            self._store.integrity.trust([path])

    def remove(self, name: str) -> int:
        """Delete it; the bytes that this frees. SnapshotNotFoundError; ConflictError while it is made."""
        place = self.folder / name
        if not name or "/" in name or name.startswith(".") or not place.is_dir():
            raise SnapshotNotFoundError(name)
        lock = self._store.locks.try_acquire(_lock(name))
        if lock is None:
            raise ConflictError(f'the snapshot "{name}" is being made')
        with lock, store_errors(place, "cannot remove the snapshot"):
            size = _size(place)
            grave = Path(tempfile.mkdtemp(prefix="snapshot.", dir=self._store.temporary.folder))
            with suppress(FileNotFoundError):
                place.rename(grave / "snapshot")
            self._store.leases.release(lease_name(name))
            shutil.rmtree(grave, ignore_errors=True)
        return size

    def prune(self, wanted: Callable[[Snapshot], bool]) -> dict[str, int]:
        """Remove those that are wanted, and those that can't be used; the bytes that each frees."""
        freed: dict[str, int] = {}
        for name in sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else ():
            with suppress(SnapshotNotFoundError, ConflictError):
                if self._is_wanted(name, wanted):
                    freed[name] = self.remove(name)
        self._sweep()
        return freed

    def _is_wanted(self, name: str, wanted: Callable[[Snapshot], bool]) -> bool:
        try:
            found = self.find(name)
        except UnusableError:
            return True
        return found is None or wanted(found)

    def _sweep(self) -> None:
        """Release what is held for snapshots whose making was killed."""
        for lease in self._store.leases.names():
            name = lease.removeprefix(_LEASE)
            if name == lease or (self.folder / name).exists():
                continue
            lock = self._store.locks.try_acquire(_lock(name))
            if lock is not None:
                with lock:
                    self._store.leases.release(lease)


_LEASE: Final = "snapshot-"


def lease_name(name: str) -> str:
    """The name under which a snapshot holds its layers in the store."""
    return f"{_LEASE}{name}"


def corrupted(name: str, what: str) -> UnusableError:
    """The error of a snapshot that can't be trusted."""
    return UnusableError(
        f'the snapshot "{name}" is corrupted, and refused: {what}', hint=f"firekiln snapshot rm {name}"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lock(name: str) -> int:
    return named(f"snapshot {name}")


def _size(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))
