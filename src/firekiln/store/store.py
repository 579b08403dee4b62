"""The store: one folder that holds all that firekiln keeps. Several processes may use it at once."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from firekiln.errors import StoreError
from firekiln.store import failpoint, locks
from firekiln.store.blobs import Blobs
from firekiln.store.durable import store_errors
from firekiln.store.images import Images
from firekiln.store.index import Index
from firekiln.store.integrity import Integrity
from firekiln.store.layers import Layers
from firekiln.store.leases import Leases, ProcessLease
from firekiln.store.paths import store_root
from firekiln.store.temporary import Temporary

_LAYOUT = '{"imageLayoutVersion":"1.0.0"}'
_BALLAST = 1 << 20
"""Bytes that removing something may need: new versions of the indexes."""
_FOLDERS = ("blobs/sha256", "leases", "tmp", "cache", "kernels", "machines")
_OWN = {"blobs", "lost+found", "ballast", *_FOLDERS}
"""What a store's making that was interrupted may have left, and a new disk has."""


class Store:
    """A store that is there. Made by `open`; leaving the context removes what this process was writing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.temporary = Temporary(root / "tmp")
        self.locks = locks.Locks(root / "lock")
        self.lease = ProcessLease(self.temporary, self.locks)
        self.index = Index(root / "index.db")
        self.integrity = Integrity(root, self.index)
        self.blobs = Blobs(root, self.temporary, self.integrity, self.lease)
        self.layers = Layers(self.blobs, self.index)
        self.images = Images(root, self.blobs, self.layers, self.locks, self.temporary)
        self.leases = Leases(root / "leases", self.temporary)

    @classmethod
    def open(cls, root: str | Path | None = None) -> Store:
        """Open the store at `root` (see `store_root` for None), making it where there is none. StoreError."""
        path = store_root(root)
        with store_errors(path, "cannot open the store"):  # pathlib lets a forbidden folder through as an OSError
            present = (path / "oci-layout").exists()
        if not present:
            _create(path)
        return cls(path)

    def close(self) -> None:
        """Release everything. Closing twice is no error."""
        self.index.close()
        self.lease.close()
        self.temporary.close()

    @contextmanager
    def making_room(self) -> Iterator[None]:
        """While what takes space is removed: where the disk is full even that needs some, which is kept for it."""
        ballast = self.root / "ballast"
        with store_errors(ballast, "cannot remove"):
            ballast.unlink(missing_ok=True)
        try:
            yield
        finally:
            _load_ballast(self.root)

    def check_writable(self) -> None:
        """StoreError where nothing can be written to it: before something is fetched for it."""
        self.temporary.folder.stat()

    def using_blobs(self) -> AbstractContextManager[object]:
        """While held, no blob that this store finds or makes is collected, though nothing may refer to it yet."""
        return self.lease.held()

    def cache_folder(self, name: str, *, fill: Callable[[Path], None] | None = None) -> Path:
        """A folder below `cache/`, made where it is absent. `name` is one file name.

        `fill` is called with a new folder before it gets its name. What is in it may be anybody's; it itself stays
        ours, so that we can move it.
        """
        path = self._below("cache", name)
        self.index.touch_folder(name)
        if path.exists():
            return path
        with store_errors(path, "cannot make"):
            made = Path(tempfile.mkdtemp(dir=self.temporary.folder))
        if fill is not None:
            fill(made)
        failpoint.reached("cache-made")
        with store_errors(path, "cannot make"):
            try:
                made.rename(path)
                failpoint.reached("cache-named")
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                shutil.rmtree(made)  # somebody else was first
        return path

    @property
    def caches(self) -> Path:
        return self.root / "cache"

    @property
    def snapshots(self) -> Path:
        """For the sandbox: what lies there has owners that only the user namespace of a build can remove."""
        return self.root / "snapshots"

    @property
    def kernels(self) -> Path:
        return self.root / "kernels"

    @property
    def machines(self) -> Path:
        return self.root / "machines"

    def _below(self, kind: str, name: str) -> Path:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ValueError(f'"{name}" is no file name')
        return self.root / kind / name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _create(root: Path) -> None:
    with store_errors(root, "cannot make the store"):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Its temporary files are swept: nobody else's folder may become one, least of all `/` with its /tmp.
        strangers = sorted({path.name for path in root.iterdir()} - _OWN)
        if (root / "oci-layout").exists():
            return  # somebody else was first
        if strangers:
            raise StoreError(
                f"{root} is no store, and not empty: there is {strangers[0]}",
                hint="give --root an empty or a new folder",
            )
        for folder in _FOLDERS:
            (root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        _load_ballast(root)
        # Written last: its presence says that the folders are there.
        (root / "oci-layout").write_text(_LAYOUT)


def _load_ballast(root: Path) -> None:
    """Keep some space for the day when there is none. It is no error if there is none today."""
    with suppress(OSError), (root / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, _BALLAST)
