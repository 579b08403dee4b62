"""What a store's parts take on the disk, and what of it is used: for `df`, and for `prune` to choose from.

Sizes are bytes. What images share is counted once in sums; a blob counts among the images where one needs it, else
among the build cache.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from firekiln.errors import StoreError
from firekiln.store import gc, locks
from firekiln.store.images import StoredImage
from firekiln.store.store import Store
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUse:
    """An image: its size, what of that it shares with others, and whether a machine or a build uses it."""

    image: StoredImage
    size: int
    shared: int
    in_use: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """A part of the build cache.

    name     a layer's digest, or the name of a folder below `cache/`
    kind     layer, mount (a cache mount's folder), dangling (a blob that nothing names), or derived (what is made of
             layers and contexts, and of them again)
    used     when last (Unix seconds); 0 where that is not known
    shared   whether an image needs it too: its size counts there
    """

    name: str
    kind: str
    size: int
    used: int
    in_use: bool
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderUse:
    """A kernel, or what else lies in a folder of its own."""

    name: str
    size: int
    in_use: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The whole store but for its machines, of which it knows nothing."""

    images: tuple[ImageUse, ...]
    images_size: int
    images_reclaimable: int
    cache: tuple[CacheUse, ...]
    kernels: tuple[FolderUse, ...]


def measure(store: Store) -> Usage:
    """What there is now."""
    sizes = {blob.digest: blob.size for blob in store.blobs.all()}
    held = gc.in_use(store)
    needed = store.images.needed()
    images = tuple(_image(image, needed, sizes, held) for image in store.images.list())
    of_images = {digest for blobs in needed.values() for digest in blobs}
    used_images = {digest for item in images if item.in_use for digest in needed.get(item.image.digest, ())}
    return Usage(
        images=images,
        images_size=_sum(of_images, sizes),
        images_reclaimable=_sum(of_images - used_images - held, sizes),
        cache=(*_layers(store, sizes, held, of_images), *_mounts(store), *_derived(store)),
        kernels=tuple(_kernels(store, held)),
    )


def last_uses(store: Store) -> dict[str, int]:
    """When the layers that results name were last used (Unix seconds)."""
    found: dict[str, int] = {}
    for use in store.index.uses():
        for digest in use.layers:
            found[digest] = max(found.get(digest, 0), use.used)
    return found


def folder_size(path: Path) -> int:
    """Bytes that a folder takes on the disk, hard links counted once. What vanishes meanwhile counts nothing."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for folder, _, files in os.walk(path, onerror=lambda _: None):
        for name in (".", *files):
            try:
                found = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - a walk of strings
            except OSError:
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return total


def folder_in_use(store: Store, name: str) -> bool:
    """Whether a step has the folder `name` below `cache/` mounted."""
    try:
        lock = store.locks.try_acquire(locks.of_cache(name))
    except StoreError:  # nobody runs a step on a store that may only be read
        return False
    if lock is not None:
        lock.release()
    return lock is None


def _image(image: StoredImage, needed: Mapping[str, set[str]], sizes: Mapping[str, int], held: set[str]) -> ImageUse:
    own = needed.get(image.digest, set())
    others = {digest for other, blobs in needed.items() if other != image.digest for digest in blobs}
    return ImageUse(image=image, size=_sum(own, sizes), shared=_sum(own & others, sizes), in_use=image.digest in held)


def _layers(store: Store, sizes: Mapping[str, int], held: set[str], of_images: set[str]) -> Iterable[CacheUse]:
    used = last_uses(store)
    for digest, size in sorted(sizes.items()):
        if digest in used or digest not in of_images:
            yield CacheUse(
                name=digest,
                kind="layer" if digest in used else "dangling",
                size=size,
                used=used.get(digest, 0),
                in_use=digest in held,
                shared=digest in of_images,
            )


def _mounts(store: Store) -> Iterable[CacheUse]:
    times = store.index.folders()
    now = int(time.time())
    for path in _listed(store.caches):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            continue
        used = min(times.get(path.name, int(found.st_mtime)), now)
        size, in_use = folder_size(path), folder_in_use(store, path.name)
        yield CacheUse(name=path.name, kind="mount", size=size, used=used, in_use=in_use)


def _derived(store: Store) -> Iterable[CacheUse]:
    for path in (store.root / name for name in ("contexts", "snapshots")):
        if size := sum(folder_size(item) if item.is_dir() else item.stat().st_size for item in _listed(path)):
            yield CacheUse(name=path.name, kind="derived", size=size, used=int(path.stat().st_mtime), in_use=False)


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _kernels(store: Store, held: set[str]) -> Iterable[FolderUse]:
    for path in _listed(store.kernels):
        yield FolderUse(name=path.name, size=folder_size(path), in_use=f"sha256:{path.name}" in held)


def _sum(digests: Iterable[str], sizes: Mapping[str, int]) -> int:
    return sum(sizes.get(digest, 0) for digest in digests)
