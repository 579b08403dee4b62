"""Reads archives of images: OCI image layouts, and what `docker save` wrote before version 25.

That older form (moby's image/spec/v1.2.md) is a manifest.json which names, for each image, its config, its layers'
tars and its tags. Layers are trusted for nothing: their digests are those that the config, whose own digest is its
name, says. From version 25 on an archive is a layout too, and is read as one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from firekiln.errors import ImageFormatError, ReferenceFormatError
from firekiln.oci import digest as digests
from firekiln.oci.archive import DOCKER_MANIFEST
from firekiln.oci.blobsource import MAX_DOCUMENT
from firekiln.oci.layout import Layout, NamedImage, RemoteImage, malformed, parse_image
from firekiln.oci.manifest import (
    MEDIA_TYPE_CONFIG,
    MEDIA_TYPE_LAYER_TAR,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Manifest,
)
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.rootfs import lookup
from firekiln.rootfs.algorithm import Compression, detect
from firekiln.rootfs.stream import FileStream
from firekiln.rootfs.tree import File, Tree
from firekiln.values import dataclass

if TYPE_CHECKING:
    from firekiln.rootfs.compression import Readable

_DIGEST_NAME: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One image of manifest.json: paths in the archive, and tags."""

    config: str
    layers: tuple[str, ...]
    tags: tuple[str, ...]


class DockerArchive:
    """An archive of the older form: a `BlobSource` of what its images were found to consist of."""

    def __init__(self, tree: Tree, *, name: str) -> None:
        self._tree = tree
        self._name = name
        self._blobs: dict[str, File] = {}
        self._layers: dict[File, Descriptor] = {}

    @property
    def name(self) -> str:
        return self._name

    def images(self, platform: Platform) -> list[NamedImage]:  # noqa: ARG002 - Layout's signature: here each image has one
        """Every image. ImageFormatError where something is missing, malformed, or another than its name says."""
        return [NamedImage(references=_references(entry.tags), remote=self._image(entry)) for entry in self._entries()]

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[Readable]:
        yield FileStream(self._blobs[descriptor.digest])

    def _entries(self) -> list[_Entry]:
        with malformed(f"{self._name}: manifest.json"):
            entries = [_entry(item) for item in json.loads(self._document(DOCKER_MANIFEST.decode()))]
        if not entries:
            raise ImageFormatError(f"{self._name}: no image in it")
        return entries

    def _image(self, entry: _Entry) -> RemoteImage:
        config = self._document(entry.config)
        digest = digests.of(config)
        said = _DIGEST_NAME.fullmatch(PurePosixPath(entry.config).name.removesuffix(".json"))
        if said is not None and digest != f"sha256:{said[1]}":
            raise ImageFormatError(f"{self._name}: {entry.config} is {digest}: it was changed")
        image = parse_image(config, digest=digest, layers=len(entry.layers), name=self._name)
        manifest = Manifest(
            config=Descriptor(media_type=MEDIA_TYPE_CONFIG, digest=digest, size=len(config)),
            layers=tuple(map(self._layer, entry.layers, image.diff_ids)),
        )
        encoded = manifest.encode()
        described = Descriptor(media_type=MEDIA_TYPE_MANIFEST, digest=digests.of(encoded), size=len(encoded))
        return RemoteImage(descriptor=described, manifest=manifest, config=config, image=image)

    def _layer(self, path: str, diff_id: str) -> Descriptor:
        """What a layer's file is: a plain tar is what its diff_id says, or else is refused when it is read."""
        node = self._file(path)
        kind = detect(next(node.chunks(), b""))
        if kind is Compression.NONE:
            self._blobs[diff_id] = node
            return Descriptor(media_type=MEDIA_TYPE_LAYER_TAR, digest=diff_id, size=node.size)
        if node not in self._layers:
            found = hashlib.sha256()
            for piece in node.chunks():
                found.update(piece)
            digest = f"sha256:{found.hexdigest()}"
            self._blobs[digest] = node
            self._layers[node] = Descriptor(media_type=f"{MEDIA_TYPE_LAYER_TAR}+{kind}", digest=digest, size=node.size)
        return self._layers[node]

    def _document(self, path: str) -> bytes:
        node = self._file(path)
        if node.size > MAX_DOCUMENT:
            raise ImageFormatError(f"{self._name}: {path} is larger than {MAX_DOCUMENT} bytes")
        return node.read()

    def _file(self, path: str) -> File:
        """A file of the archive; links, which versions before 25 used for equal layers, lead to others in it."""
        node = lookup.resolve(self._tree, path.encode(errors="surrogateescape")).node
        if not isinstance(node, File):
            raise ImageFormatError(f"{self._name}: it lacks {path}")
        return node


Archive: TypeAlias = Layout | DockerArchive


def open_archive(tree: Tree, *, name: str) -> Archive:
    """An archive's content, or a folder's, as what it is. ImageFormatError where it holds no images."""
    if lookup.get(tree, b"oci-layout") is not None and lookup.get(tree, b"index.json") is not None:
        return Layout(tree, name=name)
    if lookup.get(tree, DOCKER_MANIFEST) is not None:
        return DockerArchive(tree, name=name)
    if lookup.get(tree, b"repositories") is not None:
        hint = "it is of a docker before 1.10: load it there, and save it anew"
    else:
        hint = "the tar of a file system is brought in by `firekiln import`"
    raise ImageFormatError(f"{name} is no archive of images: it has neither index.json nor manifest.json", hint=hint)


def _entry(item: Any) -> _Entry:
    """KeyError or TypeError where it is none."""
    texts = [item["Config"], *item["Layers"], *(item.get("RepoTags") or ())]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not a string")
    return _Entry(config=item["Config"], layers=tuple(item["Layers"]), tags=tuple(item.get("RepoTags") or ()))


def _references(tags: Sequence[str]) -> tuple[str, ...]:
    """ImageFormatError where a tag is none."""
    try:
        return tuple(str(Reference.parse(tag).tagged()) for tag in tags)
    except ReferenceFormatError as error:
        raise ImageFormatError(f"manifest.json names an image so that none can be: {error.message}") from error
