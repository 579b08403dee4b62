"""Images: a manifest and a config as blobs, and names for them in `index.json`, as an OCI image layout has it.

An image's identity is its manifest's digest. A name stands for at most one image per platform. `index.json` alone
says which images there are; it is replaced atomically, under a lock (see `catalog`, which also repairs it).

The config of an image that was built here lists the digests of its EROFS layers as `diff_ids` (image-spec, config.md:
the digest of the uncompressed layer, which such a layer is). Exchange with others as tars replaces them by the tars'
own digests, which come up as the tars are made and are remembered by `Layers.record_diff_id`: a build needn't read
each layer once more for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, replace
from pathlib import Path

from firekiln.errors import ConflictError, DamagedError, ImageNotFoundError, ReferenceFormatError
from firekiln.oci.config import Image
from firekiln.oci.manifest import (
    ANNOTATION_REF_NAME,
    MEDIA_TYPE_CONFIG,
    MEDIA_TYPE_LAYER_EROFS,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Index,
    Manifest,
)
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.store import failpoint, locks
from firekiln.store.blobs import Blobs
from firekiln.store.catalog import ANNOTATION_ATTESTATION, Catalog
from firekiln.store.layers import Layer, Layers
from firekiln.store.temporary import Temporary
from firekiln.values import dataclass

_REPO_DIGEST = "dev.firekiln.repo-digest"
"""The annotation of an index entry for what a registry knows the image as, under the entry's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image that is in the store as a whole. `references` are its normalised names, perhaps none.

    `repo_digests` (`docker.io/library/debian@sha256:…`) say which manifest of a registry it was pulled from or pushed
    as, for those names of which that is known. `attestations` are blobs that say something of it (in-toto statements),
    by kind: digests.
    """

    digest: str
    config_digest: str
    references: tuple[str, ...]
    repo_digests: tuple[str, ...] = ()
    image: Image
    layers: tuple[Layer, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    attestations: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all its layers, those that it shares with other images included."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What a removal did: names that were taken away, and the digests of images that are gone."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]


class Images:
    """The images of one store."""

    def __init__(self, root: Path, blobs: Blobs, layers: Layers, lock: locks.Locks, temporary: Temporary) -> None:
        self._catalog = Catalog(root, blobs, lock, temporary)
        self._blobs = blobs
        self._layers = layers

    def get(self, name: str, platform: Platform | None = None) -> StoredImage:
        """The image of that name, digest or unambiguous beginning of a digest. ImageNotFoundError in Docker's words."""
        found = self.find(name, platform)
        if found is None:
            raise ImageNotFoundError(f"No such image: {name}", hint="`firekiln images` lists what is there")
        return found

    def find(self, name: str, platform: Platform | None = None) -> StoredImage | None:
        """As `get`; None where there is none. Without `platform` the host's is preferred."""
        index = self._catalog.read()
        candidates = _matching(index, name)
        if platform is None:
            host = Platform.host()
            candidates.sort(key=lambda item: item.platform != host)
        else:
            candidates = [item for item in candidates if item.platform == platform]
        return self._load(index, candidates[0].digest) if candidates else None

    def list(self) -> list[StoredImage]:
        """All images whose manifest and config can be read, the youngest first."""
        index = self._catalog.read()
        images: list[StoredImage] = []
        for digest in dict.fromkeys(item.digest for item in index.manifests):
            with suppress(DamagedError):
                images.append(self._load(index, digest))
        return sorted(images, key=lambda image: image.image.created or "", reverse=True)

    def checked(self, image: StoredImage) -> StoredImage:
        """The image, each of its layers there and intact: for whoever uses them. DamagedError."""
        return replace(image, layers=self._layers.checked(image.layers))

    def put(
        self,
        image: Image,
        layers: Sequence[Layer],
        *,
        references: Sequence[str] = (),
        annotations: Mapping[str, str] | None = None,
        pulled_as: str = "",
        attest: Callable[[str], Mapping[str, bytes]] = lambda _: {},
    ) -> StoredImage:
        """Keep an image, made of layers that are in the store, under `references`, which are normalised here.

        Another image that bore one of these names for the same platform loses it. `pulled_as` is the digest by which
        a registry knows the image under these names; `annotations` are the manifest's. `attest` answers to the image's
        digest with statements by kind, which are kept as long as the image and replace earlier ones of their kind.
        """
        names = tuple(normalised(reference) for reference in references)
        config = self._blobs.put(image.encode())
        manifest = Manifest(
            config=Descriptor(media_type=MEDIA_TYPE_CONFIG, digest=config.digest, size=config.size),
            layers=tuple(
                Descriptor(media_type=MEDIA_TYPE_LAYER_EROFS, digest=layer.digest, size=layer.size) for layer in layers
            ),
            annotations=annotations or {},
        )
        blob = self._blobs.put(manifest.encode())
        described = Descriptor(
            media_type=MEDIA_TYPE_MANIFEST,
            digest=blob.digest,
            size=blob.size,
            platform=image.platform,
            annotations={_REPO_DIGEST: pulled_as} if pulled_as else {},
        )
        statements = {
            ANNOTATION_ATTESTATION + kind: self._blobs.put(data).digest for kind, data in attest(blob.digest).items()
        }

        def change(index: Index) -> Index:
            known = _said(index, blob.digest)  # of what is named anew too
            return _attested(_named(index, described, names), blob.digest, {**known, **statements})

        index = self._catalog.change(change)
        failpoint.reached("image-named")
        return self._load(index, blob.digest)

    def attest(self, image: StoredImage, statements: Mapping[str, bytes]) -> StoredImage:
        """Keep statements, by kind, about an image that is there; they replace earlier ones of their kind."""
        kept = {ANNOTATION_ATTESTATION + kind: self._blobs.put(data).digest for kind, data in statements.items()}
        return self._load(self._catalog.change(lambda index: _attested(index, image.digest, kept)), image.digest)

    def pushed(self, image: StoredImage, reference: str, digest: str) -> None:
        """Note the digest by which a registry knows an image now, if the image still bears that name."""
        wanted = normalised(reference)

        def change(index: Index) -> Index:
            return replace(
                index,
                manifests=tuple(
                    item.annotated(**{_REPO_DIGEST: digest})
                    if item.digest == image.digest and _name(item) == wanted
                    else item
                    for item in index.manifests
                ),
            )

        self._catalog.change(change)

    def tag(self, name: str, reference: str) -> None:
        """Give the image `name` one more name, which another image loses."""
        wanted = normalised(reference)

        def change(index: Index) -> Index:
            found = _matching(index, name)
            if not found:
                raise ImageNotFoundError(f"No such image: {name}", hint="`firekiln images` lists what is there")
            for item in found:
                index = _named(index, _plain(item), (wanted,))
            return index

        self._catalog.change(change)

    def remove(self, name: str, *, force: bool = False) -> Removed:
        """Take a name away, or an image named by digest; an image without names is gone, its blobs left to `gc`.

        ConflictError where a digest is given, the image bears several names, and `force` is not set.
        """
        removed: list[Descriptor] = []
        gone: list[str] = []

        def change(index: Index) -> Index:
            removed[:] = _matching(index, name)
            if not removed:
                raise ImageNotFoundError(f"No such image: {name}", hint="`firekiln images` lists what is there")
            if len({_name(item) for item in removed}) > 1 and not force:
                raise ConflictError(
                    f"unable to delete {name} (must be forced) - image is referenced in multiple repositories",
                    hint="remove its names one by one, or use -f",
                )
            kept = tuple(item for item in index.manifests if item not in removed)
            left = {item.digest for item in kept}
            gone[:] = dict.fromkeys(item.digest for item in removed if item.digest not in left)
            return replace(index, manifests=kept)

        self._catalog.change(change)
        return Removed(untagged=tuple(filter(None, map(_name, removed))), deleted=tuple(gone))

    def blobs(self) -> set[str]:
        """The digests of all blobs that an image needs: manifests, configs, layers."""
        return {digest for needed in self.needed().values() for digest in needed}

    def needed(self) -> dict[str, set[str]]:
        """The digests of the blobs that each image needs, by its own digest."""
        found: dict[str, set[str]] = {}
        for item in self._catalog.read().manifests:
            if item.digest not in found:
                found[item.digest] = {item.digest} | self._parts(item.digest)
            found[item.digest] |= set(_attestations(item).values())
        return found

    def _parts(self, digest: str) -> set[str]:
        """The digests of the config and the layers; none where the manifest is damaged."""
        with suppress(DamagedError):
            manifest = self._manifest(digest)
            return {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
        return set()

    def damaged(self) -> dict[str, DamagedError]:
        """What is wrong with the images that can't be used, by name, or by digest where they have none."""
        index = self._catalog.read()
        found: dict[str, DamagedError] = {}
        for item in index.manifests:
            try:
                self.checked(self._load(index, item.digest))
            except DamagedError as error:
                found[_name(item) or item.digest] = error
        return found

    def _load(self, index: Index, digest: str) -> StoredImage:
        manifest = self._manifest(digest)
        own = [item for item in index.manifests if item.digest == digest]
        return StoredImage(
            digest=digest,
            config_digest=manifest.config.digest,
            references=tuple(filter(None, map(_name, own))),
            repo_digests=tuple(dict.fromkeys(filter(None, map(_repo_digest, own)))),
            image=Image.from_json(json.loads(self._blobs.read(manifest.config.digest))),
            layers=tuple(self._layers.described(layer.digest, layer.size) for layer in manifest.layers),
            annotations=manifest.annotations,
            attestations={kind: value for item in own for kind, value in _attestations(item).items()},
        )

    def _manifest(self, digest: str) -> Manifest:
        return Manifest.from_json(json.loads(self._blobs.read(digest)))


def normalised(reference: str) -> str:
    """`debian` as `docker.io/library/debian:latest`. ReferenceFormatError where it is no reference."""
    return str(Reference.parse(reference).tagged())


def _name(item: Descriptor) -> str | None:
    return item.annotations.get(ANNOTATION_REF_NAME)


def _plain(item: Descriptor) -> Descriptor:
    """The descriptor without its name, and what a registry calls it under that."""
    dropped = (ANNOTATION_REF_NAME, _REPO_DIGEST)
    return replace(item, annotations={k: v for k, v in item.annotations.items() if k not in dropped})


def _repo_digest(item: Descriptor) -> str | None:
    name, digest = _name(item), item.annotations.get(_REPO_DIGEST)
    return f"{Reference.parse(name).name}@{digest}" if name and digest else None


def _attestations(item: Descriptor) -> dict[str, str]:
    """The digests of what was said of an image, by kind."""
    return {
        name.removeprefix(ANNOTATION_ATTESTATION): value
        for name, value in item.annotations.items()
        if name.startswith(ANNOTATION_ATTESTATION)
    }


def _said(index: Index, digest: str) -> dict[str, str]:
    """The annotations for statements at any entry of an image."""
    return {
        ANNOTATION_ATTESTATION + kind: value
        for item in index.manifests
        if item.digest == digest
        for kind, value in _attestations(item).items()
    }


def _attested(index: Index, digest: str, statements: Mapping[str, str]) -> Index:
    """The index with the annotations `statements` at all entries of an image."""
    return replace(
        index,
        manifests=tuple(item.annotated(**statements) if item.digest == digest else item for item in index.manifests),
    )


def _named(index: Index, image: Descriptor, names: Sequence[str]) -> Index:
    """The index with `image` under `names`; who loses its last name so stays, without a name."""
    if not names:
        present = any(item.digest == image.digest for item in index.manifests)
        return index if present else replace(index, manifests=(*index.manifests, image))
    kept: list[Descriptor] = []
    for item in index.manifests:
        if _name(item) in names and item.platform == image.platform:
            if item.digest != image.digest:
                kept.append(_plain(item))
        elif item.digest != image.digest or _name(item):
            kept.append(item)
    named = {item.digest for item in kept if _name(item)}
    unnamed = {item.digest: item for item in kept if not _name(item) and item.digest not in named}
    added = [replace(image, annotations={**image.annotations, ANNOTATION_REF_NAME: name}) for name in names]
    ordered = sorted((item for item in (*kept, *added) if _name(item)), key=lambda item: _name(item) or "")
    return replace(index, manifests=(*ordered, *unnamed.values()))


def _matching(index: Index, name: str) -> list[Descriptor]:
    """The entries that `name` means: a reference, a digest, or the beginning of a digest."""
    try:
        reference = Reference.parse(name).tagged()
    except ReferenceFormatError:
        reference = None
    if reference is not None and reference.digest is not None:
        pinned = [
            item for item in index.manifests if reference.digest in (item.digest, item.annotations.get(_REPO_DIGEST))
        ]
        return [item for item in pinned if (_name(item) or "").startswith(reference.name + ":")]
    if reference is not None and (found := [item for item in index.manifests if _name(item) == str(reference)]):
        return found
    hexadecimal = name.removeprefix("sha256:")
    if not hexadecimal or not set(hexadecimal) <= set("0123456789abcdef"):
        return []
    found = [item for item in index.manifests if item.digest.startswith(f"sha256:{hexadecimal}")]
    if len({item.digest for item in found}) > 1:
        raise ImageNotFoundError(f"No such image: {name}: several images' digests begin so")
    return found
