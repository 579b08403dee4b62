"""`--cache-from` and `--cache-to`: a cache in a layout in a folder of the host, or under a name of a registry."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from firekiln.build.cachefile import ImportedCache, export_cache
from firekiln.build.caches import Caches
from firekiln.build.cachespec import CacheFrom, LocalFrom, LocalTo, Mode, RegistryFrom, RegistryTo
from firekiln.build.registry import open_repository
from firekiln.errors import BuildError, RegistryError
from firekiln.oci.layout import Layout
from firekiln.oci.layoutfolder import LayoutFolder
from firekiln.oci.manifest import Descriptor
from firekiln.oci.reference import Reference
from firekiln.rootfs import directory
from firekiln.store import Store

if TYPE_CHECKING:
    from firekiln.oci.registry import Repository


def open_cache(wanted: CacheFrom, store: Store, open_until: ExitStack) -> ImportedCache:
    """A FirekilnError where there is none, or it is damaged or out of reach. It is read until `open_until` ends."""
    match wanted:
        case LocalFrom():
            layout = Layout(directory.read(wanted.src), name=str(wanted.src))
            return ImportedCache(layout, layout.find(wanted.digest or wanted.tag), store)
        case RegistryFrom():
            repository = open_until.enter_context(open_repository(Reference.parse(wanted.ref).tagged()))
            return ImportedCache(repository, repository.resolve()[0], store)
        case _:
            assert_never(wanted)


def export(wanted: LocalTo | RegistryTo, caches: Caches, image: Sequence[str]) -> None:
    """Write what a build found and made; `image` are the digests of its image's layers. BuildError."""
    results = caches.seen
    every = (digest for result in results.values() for digest in result.layers)
    layers = caches.held(every if wanted.mode is Mode.MAX else image)
    try:
        match wanted:
            case LocalTo():
                export_cache(LayoutFolder(wanted.dest, tag=wanted.tag), results, layers)
            case RegistryTo():
                with open_repository(Reference.parse(wanted.ref).tagged()) as repository:
                    export_cache(_Pushed(repository), results, layers)
            case _:
                assert_never(wanted)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BuildError(f"exporting cache: {error.filename or wanted.where}: {reason}") from error
    except RegistryError as error:
        raise BuildError(f"exporting cache: {error.message}", hint=error.hint) from error


class _Pushed:
    """A registry's repository as a `BlobSink`; what is published gets its reference's tag."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._documents: dict[str, bytes] = {}

    def put(self, descriptor: Descriptor, content: bytes | Path) -> None:
        if isinstance(content, bytes):
            self._documents[descriptor.digest] = content  # a manifest is no blob, and which it is `publish` tells
            return
        self._repository.put_blob(descriptor.digest, descriptor.size, lambda: content.open("rb"))

    def publish(self, manifest: Descriptor) -> None:
        data = self._documents.pop(manifest.digest)
        for digest, document in self._documents.items():
            self._repository.put_bytes(digest, document)
        self._repository.put_manifest(data, manifest.media_type, self._repository.reference.tag or "")
