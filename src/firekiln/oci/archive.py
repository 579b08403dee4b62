"""Writes OCI image layouts (image-spec v1.1, image-layout.md) as Trees, which tars are made of: archives of images, as
skopeo, `podman load` and `docker load` read them.

Layers are canonical tars, compressed or not; the config's diff_ids are those tars' digests. The layout itself is a
Tree, and the archive that Tree's canonical tar: the same image gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Final

from firekiln.oci import digest
from firekiln.oci.config import Image, Json
from firekiln.oci.manifest import (
    ANNOTATION_REF_NAME,
    MEDIA_TYPE_CONFIG,
    MEDIA_TYPE_LAYER_TAR,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    encode,
)
from firekiln.oci.reference import Reference
from firekiln.rootfs import tar
from firekiln.rootfs.algorithm import Compression
from firekiln.rootfs.compression import compressed
from firekiln.rootfs.tree import Directory, Extent, File, Meta, Node, PathSource, Tree
from firekiln.values import dataclass

DOCKER_MANIFEST: Final = b"manifest.json"
_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
_CONTAINERD_NAME: Final = "io.containerd.image.name"
_SUFFIX: Final = {Compression.NONE: "", Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TarLayer:
    """A layer as others exchange it: `path` holds the compressed tar; `diff_id` is the plain one's digest."""

    descriptor: Descriptor
    diff_id: str
    path: Path


def make_layer(tree: Tree, path: Path, compression: Compression) -> TarLayer:
    """Write the tar of a layer (its whiteouts as OCI has them) to the new file `path`. RootfsError; OSError."""
    plain, packed = hashlib.sha256(), hashlib.sha256()
    size = 0
    with path.open("xb") as file:
        for piece in compressed(_hashed(tar.pieces(tree), plain), compression):
            packed.update(piece)
            size += len(piece)
            file.write(piece)
    return TarLayer(
        descriptor=Descriptor(
            media_type=MEDIA_TYPE_LAYER_TAR + _SUFFIX[compression], digest=f"sha256:{packed.hexdigest()}", size=size
        ),
        diff_id=f"sha256:{plain.hexdigest()}",
        path=path,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedImage:
    """An image to be put into an archive under `references` (perhaps none). `annotations` are the manifest's."""

    image: Image
    layers: Sequence[TarLayer]
    references: Sequence[str] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)


def layout(
    image: Image,
    layers: Sequence[TarLayer],
    references: Sequence[str],
    annotations: Mapping[str, str] | None = None,
) -> Tree:
    """`layout_of` one image."""
    return layout_of([ArchivedImage(image=image, layers=layers, references=references, annotations=annotations or {})])


def layout_of(images: Sequence[ArchivedImage], *, docker: bool = False) -> Tree:
    """The layout's Tree, each image's diff_ids put right.

    With `docker` there is a manifest.json beside it, which tells the same to what reads `docker save`'s older archives:
    the form that Docker itself writes from version 25 on.
    """
    blobs: dict[bytes, Node] = {}
    entries: list[Descriptor] = []
    listed: list[Json] = []
    for archived in images:
        config = replace(archived.image, diff_ids=tuple(layer.diff_id for layer in archived.layers)).encode()
        manifest = Manifest(
            config=Descriptor(media_type=MEDIA_TYPE_CONFIG, digest=digest.of(config), size=len(config)),
            layers=tuple(layer.descriptor for layer in archived.layers),
            annotations=archived.annotations,
        ).encode()
        described = Descriptor(
            media_type=MEDIA_TYPE_MANIFEST,
            digest=digest.of(manifest),
            size=len(manifest),
            platform=archived.image.platform,
        )
        entries += [described.annotated(**_names(reference)) for reference in archived.references] or [described]
        blobs[_blob(digest.of(config))] = _file(config)
        blobs[_blob(digest.of(manifest))] = _file(manifest)
        blobs |= {_blob(layer.descriptor.digest): _content(layer) for layer in archived.layers}
        listed.append(
            {
                "Config": _blob_path(digest.of(config)),
                "RepoTags": [Reference.parse(name).tagged().familiar for name in archived.references] or None,
                "Layers": [_blob_path(layer.descriptor.digest) for layer in archived.layers],
            }
        )
    files: dict[bytes, Node] = {
        b"blobs": _folder({b"sha256": _folder(blobs)}),
        b"index.json": _file(Index(manifests=tuple(entries)).encode()),
        b"oci-layout": _file(_LAYOUT),
    }
    if docker:
        files[DOCKER_MANIFEST] = _file(encode(listed))
    return _folder(files)


def _content(layer: TarLayer) -> File:
    size = layer.descriptor.size
    extents = (Extent(0, size, PathSource(str(layer.path)), 0),) if size else ()
    return File(meta=Meta(mode=0o644), size=size, extents=extents)


def _blob(of: str) -> bytes:
    return digest.encoded(of).encode()


def _blob_path(of: str) -> str:
    return f"blobs/sha256/{digest.encoded(of)}"


def _names(reference: str) -> dict[str, str]:
    """BuildKit's two annotations: the tag, and the whole name."""
    parsed = Reference.parse(reference).tagged()
    return {ANNOTATION_REF_NAME: parsed.tag or str(parsed), _CONTAINERD_NAME: str(parsed)}


def _hashed(data: Iterable[bytes], into: hashlib._Hash) -> Iterator[bytes]:
    for piece in data:
        into.update(piece)
        yield piece


def _file(data: bytes) -> File:
    return File.of(data, Meta(mode=0o644))


def _folder(children: dict[bytes, Node]) -> Directory:
    return Directory(meta=Meta(mode=0o755), children=children)
