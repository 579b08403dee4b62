"""Pruning: what is not used goes, the least recently used first. What a running build, export or machine uses stays.

Each function removes entries (names of images, results of steps, folders) and then collects the blobs that nobody needs
any more. Removing an entry never breaks who uses its blobs: they hold leases.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from firekiln.store import gc, locks
from firekiln.store.durable import store_errors
from firekiln.store.images import StoredImage
from firekiln.store.index import Use
from firekiln.store.store import Store
from firekiln.store.usage import CacheUse, folder_size, measure
from firekiln.values import dataclass

_LONG = 30 * 86_400
"""Seconds after which the digests of a context's files are forgotten by any pruning of the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed: images' names and digests, parts of the cache (digests, folders); bytes that this freed."""

    untagged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    cache: tuple[str, ...] = ()
    size: int = 0


def prune_images(store: Store, *, everything: bool = False, until: float | None = None) -> Pruned:
    """Remove images without names, with `everything` all that nobody uses; `until`: only those made before (Unix)."""
    held = gc.in_use(store)
    untagged: list[str] = []
    deleted: list[str] = []
    for image in store.images.list():
        wanted = everything or not image.references
        if wanted and image.digest not in held and (until is None or _created(image) < until):
            removed = store.images.remove(image.digest, force=True)
            untagged += removed.untagged
            deleted += removed.deleted
    collected = gc.collect(store)
    return Pruned(untagged=tuple(untagged), deleted=tuple(deleted), size=collected.size)


def prune_cache(
    store: Store, *, everything: bool = False, until: float | None = None, keep: int | None = None
) -> Pruned:
    """Remove results of steps and cache mounts that were last used before `until` (Unix), the oldest first, until what
    is left takes `keep` bytes at most. Results whose layers all belong to images go only with `everything`.
    """
    before = measure(store).cache
    results = store.index.uses()
    if not everything:
        shared = {item.name for item in before if item.shared}
        results = [use for use in results if not shared.issuperset(use.layers)]
    keys, folders = _chosen(results, before, until=until, keep=keep)
    store.index.forget(keys)
    freed = {name: size for name in folders if (size := _remove_folder(store, name)) is not None}
    if (size := _forget_contexts(store, everything=everything, until=until, keep=keep)) is not None:
        freed["contexts"] = size
    collected = gc.collect(store)
    blobs = [item.name for item in before if item.kind in ("layer", "dangling")]
    gone = [digest for digest in blobs if store.blobs.find(digest) is None]
    return Pruned(cache=(*gone, *freed), size=collected.size + sum(freed.values()))


def _forget_contexts(store: Store, *, everything: bool, until: float | None, keep: int | None) -> int | None:
    """Remove what is known of files of contexts that nobody built from since `until`; the bytes, None for nothing.

    Such a memory is small, and most stand for a folder that is still worked on: unless all of the cache is to go,
    only those go that were of no use for long.
    """
    folder = store.root / "contexts"
    if not folder.is_dir():
        return None
    if everything and until is None and keep is None:
        return _bury(store, folder)
    before = time.time() - _LONG if until is None else until
    with suppress(FileNotFoundError):  # a build puts files in their places meanwhile
        unused = [path for path in folder.iterdir() if path.stat().st_mtime < before]
        return sum(_bury(store, path) for path in unused) if unused else None
    return None


def _chosen(
    results: Iterable[Use], cache: Iterable[CacheUse], *, until: float | None, keep: int | None
) -> tuple[list[str], list[str]]:
    """The keys of results and the folders to remove. A result is in use where its uppermost layer is."""
    results = list(results)
    layers = {item.name: item for item in cache if item.kind == "layer"}
    naming = Counter(digest for use in results for digest in set(use.layers))
    mounts = [item for item in cache if item.kind == "mount"]
    left = sum(item.size for item in (*layers.values(), *mounts) if not item.shared)
    keys: list[str] = []
    folders: list[str] = []
    candidates: list[Use | CacheUse] = [*results, *mounts]
    for item in sorted(candidates, key=lambda item: item.used):
        if (until is not None and item.used >= until) or (keep is not None and left <= keep):
            break
        if isinstance(item, CacheUse):
            if not item.in_use:
                folders.append(item.name)
                left -= item.size
        elif not any(layers[digest].in_use for digest in item.layers[-1:] if digest in layers):
            keys.append(item.key)
            naming.subtract(set(item.layers))
            lost = [layers[digest] for digest in set(item.layers) if naming[digest] == 0 and digest in layers]
            left -= sum(layer.size for layer in lost if not layer.shared)
    return keys, folders


def prune_kernels(store: Store, *, keep: Collection[str]) -> Pruned:
    """Remove the kernels that no machine holds, but for `keep` (digests)."""
    freed: dict[str, int] = {}
    with store.locks.held(locks.BLOBS):
        held = gc.in_use(store)
        unused = [path for path in store.kernels.iterdir() if f"sha256:{path.name}" not in {*held, *keep}]
        for path in unused:
            freed[f"sha256:{path.name}"] = _bury(store, path)
    return Pruned(deleted=tuple(freed), size=sum(freed.values()))


def prune_damaged(store: Store) -> Pruned:
    """Remove what was set aside because it was damaged."""
    damaged = [store.root / "damaged", *store.root.glob("index.*.damaged")]
    return Pruned(size=sum(_bury(store, path) for path in damaged if path.exists()))


def _created(image: StoredImage) -> float:
    with suppress(ValueError):
        return datetime.fromisoformat(image.image.created or "").timestamp()
    return 0.0


def _remove_folder(store: Store, name: str) -> int | None:
    """Remove a cache mount's folder; the bytes that this freed, None where a step has it mounted."""
    lock = store.locks.try_acquire(locks.of_cache(name))
    if lock is None:
        return None
    with lock:
        size = _bury(store, store.caches / name)
        store.index.forget_folder(name)
    return size


def _bury(store: Store, path: Path) -> int:
    """Move a file or folder away at once, then delete it; its size."""
    size = folder_size(path) if path.is_dir() else path.stat().st_size
    with store_errors(path, "cannot remove"), suppress(FileNotFoundError):
        grave = tempfile.mkdtemp(prefix="removed.", dir=store.temporary.folder)
        path.rename(Path(grave) / path.name)
        shutil.rmtree(grave, ignore_errors=True)
    return size
