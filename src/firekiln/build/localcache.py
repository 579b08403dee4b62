"""`--cache-from type=local` and `--cache-to type=local`: a cache in an OCI image layout in a folder of the host."""

from __future__ import annotations

from collections.abc import Sequence

from firekiln.build.cachefile import ImportedCache, export_cache
from firekiln.build.caches import Caches
from firekiln.build.cachespec import CacheFrom, CacheTo, Mode
from firekiln.errors import BuildError
from firekiln.oci.layout import Layout
from firekiln.oci.layoutfolder import LayoutFolder
from firekiln.rootfs import directory
from firekiln.store import Store


def open_local(wanted: CacheFrom, store: Store) -> ImportedCache:
    """ImageFormatError, ImageNotFoundError or RootfsError where there is none, or it is damaged."""
    layout = Layout(directory.read(wanted.src), name=str(wanted.src))
    return ImportedCache(layout, layout.find(wanted.digest or wanted.tag), store)


def export_local(wanted: CacheTo, caches: Caches, image: Sequence[str]) -> None:
    """Write what a build found and made; `image` are the digests of its image's layers. BuildError."""
    results = caches.seen
    every = (digest for result in results.values() for digest in result.layers)
    layers = caches.held(every if wanted.mode is Mode.MAX else image)
    try:
        export_cache(LayoutFolder(wanted.dest, tag=wanted.tag), results, layers)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BuildError(f"exporting cache: {error.filename or wanted.dest}: {reason}") from error
