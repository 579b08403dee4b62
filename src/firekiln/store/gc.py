"""Garbage collection: blobs that neither an image, a build result nor a lease needs are removed.

It waits for no build, and no build waits for it but for the moment in which what nobody needs is moved aside: what a
running process has found or made is held by that process's lease (see `leases`).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from firekiln.errors import StoreError
from firekiln.store import locks
from firekiln.store.durable import is_full, store_error
from firekiln.store.leases import of_processes
from firekiln.store.store import Store
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """How many blobs were removed, and their bytes."""

    blobs: int = 0
    size: int = 0


def in_use(store: Store) -> set[str]:
    """The digests that machines and running processes hold. Exact only while the lock on blobs is held."""
    return store.leases.blobs() | of_processes(store.temporary, own=store.lease.is_held)


def collect(store: Store) -> Collected:
    """Remove what nobody needs."""
    # Listed first: what is made from here on is no candidate.
    candidates = list(store.blobs.all())
    if not candidates:
        return Collected()
    grave = _grave(store)
    with store.locks.held(locks.BLOBS):
        needed = in_use(store) | store.index.layers_of_results() | store.images.blobs()
        removed = [blob for blob in candidates if blob.digest not in needed]
        for blob in removed:
            store.blobs.take(blob.digest, grave)
    if grave is not None:
        shutil.rmtree(grave, ignore_errors=True)
    store.integrity.forget(blob.path for blob in removed)
    return Collected(blobs=len(removed), size=sum(blob.size for blob in removed))


def _grave(store: Store) -> Path | None:
    """Where blobs die while builds go on; None where the disk has no room for a folder: they then wait."""
    try:
        return Path(tempfile.mkdtemp(prefix="collected.", dir=store.temporary.folder))
    except OSError as error:
        if not is_full(error):
            raise store_error(error, store.temporary.parent, "cannot write to") from error
    except StoreError as error:
        if not isinstance(error.__cause__, OSError) or not is_full(error.__cause__):
            raise
    return None
