"""Garbage collection: blobs that neither an image, a build result nor a lease needs are removed.

It waits for no build: while somebody relies on blobs that nothing refers to yet, nothing is removed.
"""

from __future__ import annotations

from firekiln.store import locks
from firekiln.store.store import Store
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """How many blobs were removed, and their bytes."""

    blobs: int = 0
    size: int = 0


def collect(store: Store) -> Collected | None:
    """Remove what nobody needs. None where a build is running: it is left to the next time."""
    lock = store.locks.try_acquire(locks.BLOBS)
    if lock is None:
        return None
    with lock:
        needed = store.images.blobs() | store.index.layers_of_results() | store.leases.blobs()
        removed = [blob for blob in store.blobs.all() if blob.digest not in needed]
        for blob in removed:
            store.blobs.delete(blob.digest)
    return Collected(blobs=len(removed), size=sum(blob.size for blob in removed))
