"""OCI's descriptors, image manifests and indexes (image-spec v1.1: descriptor.md, manifest.md, image-index.md).

Keys that these classes do not know survive a round trip. Documents are encoded with sorted keys and no white space,
so that the same manifest has the same digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from firekiln.oci.config import Json
from firekiln.oci.platform import Platform
from firekiln.values import dataclass

MEDIA_TYPE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_TYPE_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_TYPE_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_TYPE_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MEDIA_TYPE_DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MEDIA_TYPE_LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
"""Uncompressed; `+gzip` and `+zstd` behind it say how it is compressed."""
MEDIA_TYPE_LAYER_EROFS = "application/vnd.firekiln.layer.v1.erofs"
"""A layer as the store keeps it: an uncompressed EROFS file with overlayfs's whiteouts."""
MEDIA_TYPE_EMPTY = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
"""What an artifact has where an image has its config (image-spec, manifest.md, "Guidance for an Empty Descriptor")."""

ANNOTATION_REF_NAME = "org.opencontainers.image.ref.name"
ANNOTATION_CREATED = "org.opencontainers.image.created"


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a blob is, its digest, and its size in bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Descriptor:
        """KeyError, TypeError or ValueError where `data` is no descriptor."""
        return cls(
            media_type=str(data["mediaType"]),
            digest=str(data["digest"]),
            size=int(data["size"]),
            platform=_platform(data.get("platform")),
            annotations=dict(data.get("annotations") or {}),
            extra={key: value for key, value in data.items() if key not in _DESCRIPTOR_KEYS},
        )

    def to_json(self) -> dict[str, Json]:
        made: dict[str, Json] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.platform:
            made["platform"] = _platform_json(self.platform)
        if self.annotations:
            made["annotations"] = dict(self.annotations)
        return made | dict(self.extra)

    def annotated(self, **changes: str) -> Descriptor:
        """The same blob under other annotations; those that `changes` does not name stay."""
        return replace(self, annotations={**self.annotations, **changes})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An image: its config, and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """KeyError, TypeError or ValueError where `data` is no image manifest."""
        return cls(
            config=Descriptor.from_json(data["config"]),
            layers=tuple(Descriptor.from_json(layer) for layer in data["layers"]),
            annotations=dict(data.get("annotations") or {}),
            extra={key: value for key, value in data.items() if key not in _MANIFEST_KEYS},
        )

    def to_json(self) -> dict[str, Json]:
        made: dict[str, Json] = {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE_MANIFEST,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        if self.annotations:
            made["annotations"] = dict(self.annotations)
        return made | dict(self.extra)

    def encode(self) -> bytes:
        return encode(self.to_json())


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Several manifests: one image for several platforms, or the images of a layout."""

    manifests: tuple[Descriptor, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Index:
        """KeyError, TypeError or ValueError where `data` is no index."""
        return cls(
            manifests=tuple(Descriptor.from_json(item) for item in data["manifests"]),
            annotations=dict(data.get("annotations") or {}),
            extra={key: value for key, value in data.items() if key not in _INDEX_KEYS},
        )

    def to_json(self) -> dict[str, Json]:
        made: dict[str, Json] = {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE_INDEX,
            "manifests": [item.to_json() for item in self.manifests],
        }
        if self.annotations:
            made["annotations"] = dict(self.annotations)
        return made | dict(self.extra)

    def encode(self) -> bytes:
        return encode(self.to_json())


def encode(document: Json) -> bytes:
    """A document's canonical bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


_DESCRIPTOR_KEYS = frozenset("mediaType digest size platform annotations".split())
_MANIFEST_KEYS = frozenset("schemaVersion mediaType config layers annotations".split())
_INDEX_KEYS = frozenset("schemaVersion mediaType manifests annotations".split())


def _platform(data: Mapping[str, Any] | None) -> Platform | None:
    if not data:
        return None
    parts = (data.get("os") or "linux", data.get("architecture") or "amd64", data.get("variant"))
    return Platform.parse("/".join(filter(None, parts)))


def _platform_json(platform: Platform) -> dict[str, Json]:
    made: dict[str, Json] = {"architecture": platform.architecture, "os": platform.os}
    return made | ({"variant": platform.variant} if platform.variant else {})
