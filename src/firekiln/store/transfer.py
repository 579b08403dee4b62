"""Images between the store and registries: pull and push of one image.

A pulled image's config names the layers as the store has them (their EROFS files), a pushed one's as others do (their
tars): so an image that is pushed here and pulled there has the same digest in both stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import field, replace
from typing import TYPE_CHECKING, Final

from firekiln.oci import digest as digests
from firekiln.oci.archive import make_layer
from firekiln.oci.layout import read_image
from firekiln.oci.manifest import MEDIA_TYPE_CONFIG, MEDIA_TYPE_LAYER_TAR, MEDIA_TYPE_MANIFEST, Descriptor, Manifest
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.rootfs.compression import Compression
from firekiln.store.images import StoredImage
from firekiln.store.index import ExchangedTar
from firekiln.store.ingest import ingest_image
from firekiln.store.layers import Layer
from firekiln.store.store import Store
from firekiln.values import dataclass

if TYPE_CHECKING:
    from pathlib import Path

    from firekiln.oci.registry import Repository

_SUFFIX: Final = {Compression.NONE: "", Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd"}
_AT_ONCE: Final = 3

Moved = Callable[[str, int, int], None]
"""Told from any thread: a blob's digest, bytes that moved (negative: in vain), and its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """An image that is in the store now. `digest` is the registry's: of the manifest, or the index, that it named."""

    image: StoredImage
    digest: str
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a registry knows an image as. `layers` are the registry's layers by the store's: digests."""

    digest: str
    size: int
    layers: Mapping[str, str] = field(default_factory=dict)


def pull(store: Store, repository: Repository, platform: Platform, *, moved: Moved = lambda *_: None) -> Pulled:
    """Bring an image into the store under the repository's reference.

    ImageNotFoundError, ImageFormatError, RegistryError; then nothing has changed.
    """
    reference = repository.reference.tagged()
    descriptor, _ = repository.resolve()
    known = store.images.find(str(reference), platform)
    if known is not None and f"{reference.name}@{descriptor.digest}" in known.repo_digests:
        return Pulled(image=known, digest=descriptor.digest, is_new=False)
    remote = read_image(repository, descriptor, platform)
    with store.using_blobs():
        layers = ingest_image(store, repository, remote, moved=lambda blob, count: moved(blob.digest, count, blob.size))
        image = replace(remote.image, diff_ids=tuple(layer.digest for layer in layers))
        made = store.images.put(
            image,
            layers,
            references=[str(reference)],
            pulled_as=descriptor.digest,
            annotations=remote.manifest.annotations,
        )
    return Pulled(image=made, digest=descriptor.digest, is_new=True)


def push(
    store: Store,
    repository: Repository,
    image: StoredImage,
    *,
    compression: Compression = Compression.GZIP,
    moved: Moved = lambda *_: None,
) -> Pushed:
    """Put an image into the repository under its reference's tag, as any engine takes it. RegistryError, StoreError.

    A layer whose tar the registry has already isn't made again; one that another repository of the same registry
    holds, from which the image was pulled, is mounted.
    """
    source = _neighbour(image, repository.reference)

    def put(layer: Layer) -> ExchangedTar:
        known = store.index.tar(layer.digest, compression)
        if known is not None and repository.has_blob(known.digest):
            return known
        with _tar(store, layer, compression) as (tar, path):
            repository.put_blob(
                tar.digest,
                tar.size,
                lambda: path.open("rb"),
                moved=lambda count: moved(tar.digest, count, tar.size),
                mount_from=source,
            )
        return tar

    with store.using_blobs(), ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="firekiln-push") as pool:
        layers = store.images.checked(image).layers
        tars = list(pool.map(put, dict.fromkeys(layers)))
        by_layer = dict(zip(dict.fromkeys(layers), tars, strict=True))
        manifest, config = describe(image, [by_layer[layer] for layer in layers], compression)
        repository.put_bytes(digests.of(config), config)
        digest = repository.put_manifest(manifest, MEDIA_TYPE_MANIFEST, repository.reference.tagged().tag or "")
    store.images.pushed(image, str(repository.reference), digest)
    sent = {layer.digest: tar.digest for layer, tar in by_layer.items()}
    return Pushed(digest=digest, size=len(manifest), layers=sent)


def describe(image: StoredImage, tars: list[ExchangedTar], compression: Compression) -> tuple[bytes, bytes]:
    """The manifest and the config, as others have them, of an image whose layers are these tars, lowest first."""
    config = replace(image.image, diff_ids=tuple(tar.diff_id for tar in tars)).encode()
    media_type = MEDIA_TYPE_LAYER_TAR + _SUFFIX[compression]
    manifest = Manifest(
        config=Descriptor(media_type=MEDIA_TYPE_CONFIG, digest=digests.of(config), size=len(config)),
        layers=tuple(Descriptor(media_type=media_type, digest=tar.digest, size=tar.size) for tar in tars),
        annotations=image.annotations,
    )
    return manifest.encode(), config


@contextmanager
def _tar(store: Store, layer: Layer, compression: Compression) -> Iterator[tuple[ExchangedTar, Path]]:
    """A layer's tar in a temporary file; what it is, is remembered."""
    with store.blobs.spool() as path:
        made = make_layer(store.layers.tree(layer), path, compression)
        tar = ExchangedTar(digest=made.descriptor.digest, size=made.descriptor.size, diff_id=made.diff_id)
        store.index.record_tar(layer.digest, compression, tar)
        yield tar, path


def _neighbour(image: StoredImage, target: Reference) -> str:
    """Another repository of the same registry that may hold the image's blobs, "" for none."""
    names = (Reference.parse(name) for name in (*image.repo_digests, *image.references))
    return next(
        (name.repository for name in names if name.registry == target.registry and name.name != target.name), ""
    )
