"""Layers of a running build: usable at once, kept for good a moment later.

A step's layer must be on the disk before the index may name it, but the next step needn't wait for that. `Staging`
writes layers into the process's temporary folder and hands them out from there; a thread fsyncs them, gives them
their final names and records the results, as many at a time as have gathered. What is lost by a crash was never
recorded.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from firekiln.oci import digest as digests
from firekiln.rootfs.tree import Tree
from firekiln.store import failpoint
from firekiln.store.durable import fsync_directory, fsync_file, store_errors
from firekiln.store.index import Result
from firekiln.store.layers import Layer, write_layer
from firekiln.store.locks import Lock
from firekiln.store.store import Store
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    results: Mapping[str, Result]
    layer: Layer | None
    lock: Lock


class Staging:
    """What one build makes. Leaving the context keeps all that was recorded; `flush` does so earlier."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._pending: list[_Pending] = []
        self._busy = False
        self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._folder: Path | None = None

    def layer(self, tree: Tree) -> Layer:
        """Write a Tree as a layer. Its file stays readable at `path` until the staging ends."""
        path = self._place() / f"layer.{next(self._numbers)}"
        layer = write_layer(tree, path)
        failpoint.reached("layer-written")
        # The name tells everybody what it holds, as that of a blob does.
        named = path.with_name(digests.encoded(layer.digest))
        with store_errors(path, "cannot write"):
            with suppress(FileExistsError):  # another step made the same: it may be on its way to the disk already
                named.hardlink_to(path)
            path.unlink()
        return replace(layer, path=named)

    def record(self, results: Mapping[str, Result], layer: Layer | None, lock: Lock) -> None:
        """Keep `layer`, then `results` (by key) that name it, then release `lock`, soon and in the background."""
        with self._changed:
            self._pending.append(_Pending(results=results, layer=layer, lock=lock))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="firekiln-staging", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all that was recorded is on the disk. The error of whatever could not be kept is raised here."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending and not self._busy)
            error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if error is None and self._error is not None:
            raise self._error

    def _place(self) -> Path:
        """A folder of this build's own: another one of this process may make, and remove, the same layer."""
        with self._changed:
            if self._folder is None:
                parent = self._store.temporary.folder
                with store_errors(parent, "cannot write to"):
                    self._folder = Path(tempfile.mkdtemp(prefix="staging.", dir=parent))
            return self._folder

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed)
                batch, self._pending = self._pending, []
                self._busy = bool(batch)
            if not batch:
                return
            try:
                self._keep(batch)
            except BaseException as error:  # noqa: BLE001 - handed to the thread that flushes
                self._error = self._error or error
            finally:
                for item in batch:
                    item.lock.release()
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _keep(self, batch: list[_Pending]) -> None:
        blobs = self._store.blobs
        new = {item.layer.digest: item.layer for item in batch if item.layer and not blobs.intact(item.layer.digest)}
        with store_errors(blobs.folder, "cannot keep a layer in"):
            for layer in new.values():
                fsync_file(layer.path)
                failpoint.reached("layer-synced")
                blobs.link(layer.path, layer.digest)
                failpoint.reached("layer-linked")
            if new:
                fsync_directory(blobs.folder)
            failpoint.reached("layer-kept")
            stamps = self._store.integrity.stamps(blobs.path(digest) for digest in new)
        self._store.index.record({key: result for item in batch for key, result in item.results.items()}, stamps)
        failpoint.reached("results-recorded")
