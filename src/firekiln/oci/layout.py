"""Reads OCI image layouts (image-spec v1.1, image-layout.md), and images from any `BlobSource`.

A layout is read from a Tree, so that a folder and a tar of one are the same, and no link in it leads out of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from firekiln.errors import FirekilnError, ImageFormatError, ImageNotFoundError, ReferenceFormatError
from firekiln.oci.blobsource import MAX_DOCUMENT, BlobSource, parse_document, read_blob
from firekiln.oci.config import Image
from firekiln.oci.digest import is_valid
from firekiln.oci.manifest import (
    ANNOTATION_REF_NAME,
    MEDIA_TYPE_DOCKER_INDEX,
    MEDIA_TYPE_DOCKER_MANIFEST,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Index,
    Manifest,
)
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.rootfs import lookup
from firekiln.rootfs.stream import FileStream
from firekiln.rootfs.tree import File, Tree
from firekiln.values import dataclass

if TYPE_CHECKING:
    from firekiln.rootfs.compression import Readable

_INDEXES: Final = frozenset({MEDIA_TYPE_INDEX, MEDIA_TYPE_DOCKER_INDEX})
_MANIFESTS: Final = frozenset({MEDIA_TYPE_MANIFEST, MEDIA_TYPE_DOCKER_MANIFEST})
_MAX_DEPTH: Final = 4
"""Indexes in indexes: more is a game."""
_ATTESTATION: Final = "vnd.docker.reference.type"
_CONTAINERD_NAME: Final = "io.containerd.image.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteImage:
    """An image as its source has it: `descriptor` is its manifest's, `config` the config's own bytes."""

    descriptor: Descriptor
    manifest: Manifest
    config: bytes
    image: Image


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedImage:
    """An image of an archive, and what it is called there; names are in full."""

    remote: RemoteImage
    references: tuple[str, ...] = ()


class Layout:
    """One layout: a `BlobSource`. `name` is what errors call it."""

    def __init__(self, tree: Tree, *, name: str) -> None:
        """ImageFormatError where `tree` is no layout of a version that is known."""
        self._tree = tree
        self._name = name
        version = parse_document(self._file(b"oci-layout"), name=f"{name}: oci-layout").get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise ImageFormatError(f"{name}: image layouts of version {version} are not known")

    @property
    def name(self) -> str:
        return self._name

    def index(self) -> Index:
        """What index.json lists. ImageFormatError where it is malformed."""
        return _index(self._file(b"index.json"), f"{self._name}: index.json")

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[Readable]:
        algorithm, _, encoded = descriptor.digest.partition(":")
        if not is_valid(descriptor.digest):
            raise ImageFormatError(f"{self._name}: {descriptor.digest!r} is no sha256 digest")
        node = lookup.resolve(self._tree, f"blobs/{algorithm}/{encoded}".encode()).node
        if not isinstance(node, File):
            raise ImageFormatError(f"{self._name}: it lacks the blob {descriptor.digest}")
        yield FileStream(node)

    def images(self, platform: Platform) -> list[NamedImage]:
        """Every image that index.json lists: of several under one name the one for `platform`.

        As `read_image`; ImageFormatError where nothing is listed.
        """
        groups: dict[str, list[Descriptor]] = {}
        for item in self.index().manifests:
            if _ATTESTATION not in item.annotations:
                groups.setdefault(_name(item) or item.digest, []).append(item)
        if not groups:
            raise ImageFormatError(f"{self._name}: no image in it")
        found: dict[str, NamedImage] = {}
        for key, items in groups.items():
            item = items[0] if len(items) == 1 else choose(items, platform, self._name)
            known = found.get(item.digest) or NamedImage(remote=read_image(self, item, platform))
            found[item.digest] = replace(known, references=(*known.references, *([key] if _name(item) else [])))
        return list(found.values())

    def find(self, wanted: str = "") -> Descriptor:
        """The entry of index.json with that digest, tag or name; without one the only entry, or the one named latest.

        ImageNotFoundError where there is none, or several.
        """
        manifests = self.index().manifests
        if is_valid(wanted):
            found = [item for item in manifests if item.digest == wanted]
            # A digest may also be that of a manifest within an index: the blob itself tells what it is.
            return found[0] if found else self._unlisted(wanted)
        found = [item for item in manifests if not wanted or wanted in _names(item)]
        if len({item.digest for item in found}) > 1 and not wanted:
            found = [item for item in manifests if "latest" in _names(item)]
        if len({item.digest for item in found}) != 1:
            names = sorted({name for item in manifests for name in _names(item)})
            there = f"it has {', '.join(names)}" if names else "its images have no names"
            problem = f"no image {wanted}" if wanted else "no single image, and none named latest"
            raise ImageNotFoundError(f"{self._name}: {problem}", hint=f"{there}; give PATH:TAG or PATH@DIGEST")
        return found[0]

    def _unlisted(self, wanted: str) -> Descriptor:
        node = lookup.get(self._tree, f"blobs/sha256/{wanted.partition(':')[2]}".encode())
        if not isinstance(node, File) or node.size > MAX_DOCUMENT:
            raise ImageNotFoundError(f"{self._name}: no image {wanted}")
        descriptor = Descriptor(media_type="", digest=wanted, size=node.size)
        media_type = parse_document(read_blob(self, descriptor), name=f"{self._name}: {wanted}").get("mediaType")
        return Descriptor(media_type=str(media_type or MEDIA_TYPE_MANIFEST), digest=wanted, size=node.size)

    def _file(self, path: bytes) -> bytes:
        node = lookup.resolve(self._tree, path).node
        if not isinstance(node, File):
            raise ImageFormatError(f"{self._name} is no OCI image layout: it has no {path.decode()}")
        if node.size > MAX_DOCUMENT:
            raise ImageFormatError(f"{self._name}: {path.decode()} is larger than {MAX_DOCUMENT} bytes")
        return node.read()


def split_reference(text: str) -> tuple[str, str]:
    """`PATH`, `PATH:TAG` or `PATH@DIGEST` as the path and the rest ("" without one), as BuildKit reads oci-layout://."""
    path, at, digest = text.partition("@")
    if at:
        return path, digest
    match = re.fullmatch(r"(.*):([\w][\w.-]{0,127})", text, re.ASCII | re.DOTALL)
    return (match[1], match[2]) if match else (text, "")


def read_image(source: BlobSource, descriptor: Descriptor, platform: Platform) -> RemoteImage:
    """The image that `descriptor` leads to: itself, or what an index has for `platform`. Documents are verified.

    ImageNotFoundError where an index lacks the platform; ImageFormatError where something is missing, damaged or
    malformed.
    """
    for _ in range(_MAX_DEPTH):
        if descriptor.media_type not in _INDEXES:
            break
        descriptor = choose(_index(read_blob(source, descriptor), source.name).manifests, platform, source.name)
    if descriptor.media_type not in _MANIFESTS:
        raise ImageFormatError(f"{source.name}: {descriptor.digest} is {descriptor.media_type or 'nothing'}, no image")
    with malformed(f"{source.name}: the manifest {descriptor.digest}"):
        manifest = Manifest.from_json(parse_document(read_blob(source, descriptor), name=descriptor.digest))
    config = read_blob(source, manifest.config)
    image = parse_image(config, digest=manifest.config.digest, layers=len(manifest.layers), name=source.name)
    return RemoteImage(descriptor=descriptor, manifest=manifest, config=config, image=image)


def parse_image(config: bytes, *, digest: str, layers: int, name: str) -> Image:
    """A config's bytes as the image of so many layers. ImageFormatError where they are malformed, or do not fit."""
    with malformed(f"{name}: the image config {digest}"):
        image = Image.from_json(parse_document(config, name=digest))
    if len(image.diff_ids) != layers:
        raise ImageFormatError(
            f"{name}: the image has {layers} layers, and its config {digest} has {len(image.diff_ids)} diff_ids"
        )
    return image


def choose(manifests: Sequence[Descriptor], platform: Platform, name: str) -> Descriptor:
    """The entry for a platform: an equal one, else one without a variant, else one that names no platform.

    Entries that are no images (attestations, of platform unknown/unknown) are left out. ImageNotFoundError.
    """
    images = [
        item for item in manifests if item.media_type in _MANIFESTS | _INDEXES and _ATTESTATION not in item.annotations
    ]
    plain = Platform(platform.os, platform.architecture)
    for wanted in (platform, plain, None):
        for item in images:
            if item.platform == wanted:
                return item
    there = ", ".join(sorted({str(item.platform) for item in images if item.platform})) or "none"
    raise ImageNotFoundError(f"{name}: no match for platform in manifest: {platform}", hint=f"there is: {there}")


def _names(item: Descriptor) -> set[str]:
    """What an entry may be asked for by: its tag, or the whole name."""
    return {item.annotations[key] for key in (ANNOTATION_REF_NAME, _CONTAINERD_NAME) if item.annotations.get(key)}


def _name(item: Descriptor) -> str | None:
    """An entry's whole name; a tag alone, as `skopeo copy … oci:DIR:TAG` writes it, is none."""
    for key in (_CONTAINERD_NAME, ANNOTATION_REF_NAME):
        text = item.annotations.get(key, "")
        if key == _CONTAINERD_NAME or "/" in text or ":" in text:
            with suppress(ReferenceFormatError):
                return str(Reference.parse(text).tagged())
    return None


def _index(data: bytes, name: str) -> Index:
    document: Any = parse_document(data, name=name)
    with malformed(name):
        return Index.from_json(document)


@contextmanager
def malformed(what: str) -> Iterator[None]:
    """What is wrong with a document's shape as an ImageFormatError."""
    try:
        yield
    except FirekilnError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageFormatError(f"{what} is malformed: {error!r}") from None
