"""A build cache that travels: results of steps and their layers as an OCI image with a config of its own.

The manifest's layers are the EROFS files; the config (`application/vnd.firekiln.cacheconfig.v1+json`) has the shape of
BuildKit's `vnd.buildkit.cacheconfig.v0`:

    {"layers":  [{"blob": "sha256:…", "annotations": {"mediaType": …, "diffID": "sha256:…", "size": …}}, …],
     "records": [{"digest": "sha256:KEY", "chain": "CHAIN", "chains": [{"layers": [0, 1], "createdAt": "…"}]}, …]}

`layers` of a chain count into `layers`, the lowest first. A layer without annotations is known, but does not lie in
this cache (mode=min): a step that has it is found, and what stands on it, but its files are not. BuildKit's `inputs`
have no counterpart, because a key of ours holds its inputs' keys already; `chain` is what the keys of a result's users
are made of. The two builders' keys differ, and so does the media type.

An image may hold the same document in its config (`INLINE_CACHE`), about its own layers, the lowest first (as BuildKit
with `moby.buildkit.cache.v0`). In a registry these are tars, of which our writer makes the same EROFS files again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from firekiln.build.image import INLINE_CACHE
from firekiln.errors import ImageFormatError, RegistryError, RootfsError
from firekiln.oci import digest as digests
from firekiln.oci.blobsource import BlobSource, parse_document, read_blob
from firekiln.oci.config import Json
from firekiln.oci.layoutfolder import BlobSink
from firekiln.oci.manifest import (
    MEDIA_TYPE_CONFIG,
    MEDIA_TYPE_LAYER_EROFS,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Manifest,
    encode,
)
from firekiln.store import Layer, Result, Store
from firekiln.store.ingest import commit_layer, spool_layer
from firekiln.store.locks import named
from firekiln.values import dataclass

MEDIA_TYPE_CACHE_CONFIG: Final = "application/vnd.firekiln.cacheconfig.v1+json"
_DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_MAX_CONFIG: Final = 64 << 20
_KEY: Final = "sha256:"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheContent:
    """What a cache says: results by key, and the layers that it holds, by the layer's digest."""

    results: Mapping[str, Result]
    layers: Mapping[str, HeldLayer]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLayer:
    """A layer of `size` bytes in a cache. Where it lies there as a tar, `diff_id` is that of the tar."""

    descriptor: Descriptor
    size: int
    diff_id: str


class ImportedCache:
    """A cache of others that one build reads. Nothing of it is believed but what its digests prove."""

    def __init__(self, source: BlobSource, manifest: Descriptor, store: Store) -> None:
        """ImageFormatError where the documents are missing, damaged or malformed. Layers are read when needed."""
        self._source = source
        self._store = store
        self._content = _read(source, manifest)

    def find(self, key: str) -> Result | None:
        return self._content.results.get(key)

    def layer(self, digest: str) -> Layer | None:
        """A layer that the cache holds, as it will be once it is fetched."""
        held = self._content.layers.get(digest)
        if held is None:
            return None
        return Layer(digest=digest, size=held.size, path=self._store.blobs.path(digest))

    def fetch(self, digest: str) -> str | None:
        """Bring a layer into the store, if it isn't there; what is wrong with it otherwise, in a line.

        StoreError where the store can't take it.
        """
        with self._store.locks.acquire(named(f"fetch {digest}")):
            if self._store.layers.find(digest) is not None:
                return None
            held = self._content.layers[digest]
            try:
                with spool_layer(self._store, self._source, held.descriptor, held.diff_id) as spooled:
                    made = commit_layer(self._store, spooled)
                if (made.digest, made.size) != (digest, held.size):
                    return f"{self._source.name}: the layer {held.descriptor.digest} does not become {digest}"
            except (ImageFormatError, RegistryError, RootfsError) as error:
                return error.message
        return None


def export_cache(sink: BlobSink, results: Mapping[str, Result], layers: Mapping[str, Layer]) -> None:
    """Write `results` and those of their layers that `layers` has to `sink`. What `sink` raises."""
    order = list(dict.fromkeys(digest for result in results.values() for digest in result.layers))
    held = [layers[digest] for digest in order if digest in layers]
    descriptors = [_descriptor(layer) for layer in held]
    config = encode(_document(results, order, layers))
    described = Descriptor(media_type=MEDIA_TYPE_CACHE_CONFIG, digest=digests.of(config), size=len(config))
    manifest = Manifest(config=described, layers=tuple(descriptors)).encode()
    for layer, descriptor in zip(held, descriptors, strict=True):
        sink.put(descriptor, layer.path)
    sink.put(described, config)
    top = Descriptor(media_type=MEDIA_TYPE_MANIFEST, digest=digests.of(manifest), size=len(manifest))
    sink.put(top, manifest)
    sink.publish(top)


def inline(results: Mapping[str, Result], image: Sequence[Layer]) -> Json:
    """The document for an image's config: those of `results` that are made of its own layers."""
    own = {layer.digest: layer for layer in image}
    told = {key: result for key, result in results.items() if result.layers and own.keys() >= set(result.layers)}
    return _document(told, list(own), own)


def _document(results: Mapping[str, Result], order: Sequence[str], layers: Mapping[str, Layer]) -> Json:
    places = {digest: number for number, digest in enumerate(order)}
    document: Any = {
        "layers": [_layer_json(digest, layers.get(digest)) for digest in order],
        "records": [
            {
                "digest": f"{_KEY}{key}",
                "chain": result.chain,
                "chains": [{"layers": [places[digest] for digest in result.layers], "createdAt": result.created}],
            }
            for key, result in sorted(results.items())
        ],
    }
    return document  # type: ignore[no-any-return] # nested lists of plain values


def _descriptor(layer: Layer) -> Descriptor:
    return Descriptor(media_type=MEDIA_TYPE_LAYER_EROFS, digest=layer.digest, size=layer.size)


def _layer_json(digest: str, layer: Layer | None) -> dict[str, Any]:
    if layer is None:
        return {"blob": digest}
    annotations = {"mediaType": MEDIA_TYPE_LAYER_EROFS, "diffID": digest, "size": layer.size}
    return {"blob": digest, "annotations": annotations}


def _read(source: BlobSource, descriptor: Descriptor) -> CacheContent:
    what = f"{source.name}: the cache {descriptor.digest}"
    with _malformed(what):
        manifest = Manifest.from_json(parse_document(read_blob(source, descriptor), name=what))
        kind = manifest.config.media_type
        if kind not in {MEDIA_TYPE_CACHE_CONFIG, MEDIA_TYPE_CONFIG, _DOCKER_CONFIG}:
            raise ImageFormatError(f"{what} was made by another builder ({kind})")
        document = parse_document(read_blob(source, manifest.config, limit=_MAX_CONFIG), name=what)
        if kind != MEDIA_TYPE_CACHE_CONFIG:
            return _of_image(manifest, document, what)
        layers = [_layer(entry) for entry in document["layers"]]
        held = {
            layer.digest: HeldLayer(descriptor=layer, size=layer.size, diff_id=layer.digest)
            for layer in manifest.layers
        }
        return CacheContent(
            results=_results(document, layers), layers={digest: held[digest] for digest in layers if digest in held}
        )


def _of_image(manifest: Manifest, config: Mapping[str, Any], what: str) -> CacheContent:
    """What an image's config says of the image's own layers."""
    document = config.get(INLINE_CACHE)
    if document is None:
        raise ImageFormatError(f"{what} is of an image that holds none: build it with --cache-to type=inline")
    layers = [_layer(entry) for entry in document["layers"]]
    sizes = [int(entry["annotations"]["size"]) for entry in document["layers"]]
    diff_ids = [digests.check(diff_id) for diff_id in config["rootfs"]["diff_ids"]]
    held = {
        digest: HeldLayer(descriptor=described, size=size, diff_id=diff_id)
        for digest, size, described, diff_id in zip(layers, sizes, manifest.layers, diff_ids, strict=True)
    }
    return CacheContent(results=_results(document, layers), layers=held)


def _results(document: Mapping[str, Any], layers: Sequence[str]) -> Mapping[str, Result]:
    return dict(_result(record, layers) for record in document["records"])


def _layer(entry: Mapping[str, Any]) -> str:
    return digests.check(entry["blob"])


def _result(record: Mapping[str, Any], layers: Sequence[str]) -> tuple[str, Result]:
    [chain] = record["chains"]
    numbers = chain["layers"]
    if not all(isinstance(number, int) and 0 <= number < len(layers) for number in numbers):
        raise ValueError("a layer that is not listed")
    key, users, created = digests.encoded(record["digest"]), record["chain"], chain["createdAt"]
    if not digests.is_valid(f"sha256:{users}") or not isinstance(created, str):
        raise ValueError("a record that is none")
    return key, Result(chain=users, layers=tuple(layers[number] for number in numbers), created=created)


@contextmanager
def _malformed(what: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageFormatError(f"{what} is malformed: {error!r}") from None
