"""Where the blobs of images lie: an OCI image layout, a registry. What comes from there is verified as it is read.

Whoever can open a blob by its descriptor is a `BlobSource`; everything above it (choosing a platform, reading
manifests, ingesting layers, importing caches) is the same for all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol

from firekiln.errors import ImageFormatError
from firekiln.oci import digest as digests
from firekiln.oci.manifest import Descriptor

if TYPE_CHECKING:
    from firekiln.rootfs.compression import Readable

MAX_DOCUMENT: Final = 4 << 20
"""Bytes of a manifest, an index or a config: what registries (distribution-spec, "4 megabytes") must take at least."""


class BlobSource(Protocol):
    """A place that blobs are read from. `name` is what errors call it."""

    @property
    def name(self) -> str: ...

    def open(self, descriptor: Descriptor) -> AbstractContextManager[Readable]:
        """The blob's bytes, which nobody has verified. ImageFormatError where the place lacks it."""
        ...


class Verified:
    """A blob's bytes, counted and hashed on their way. `finish` says whether they were the descriptor's.

    ImageFormatError as soon as there are more bytes than the descriptor says.
    """

    def __init__(self, stream: Readable, descriptor: Descriptor, *, name: str) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._name = name
        self._hash = hashlib.sha256()
        self._size = 0
        if not digests.is_valid(descriptor.digest):
            raise ImageFormatError(f"{name}: {descriptor.digest!r} is no sha256 digest")

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._size += len(data)
        if self._size > self._descriptor.size:
            raise ImageFormatError(
                f"{self._name}: the blob {self._descriptor.digest} is larger than the {self._descriptor.size} bytes "
                "that its descriptor says"
            )
        self._hash.update(data)
        return data

    def finish(self) -> None:
        """Read what is left, and compare. ImageFormatError where size or digest are not the descriptor's."""
        while self.read(1 << 20):
            pass
        wanted, found = self._descriptor.digest, f"sha256:{self._hash.hexdigest()}"
        if self._size != self._descriptor.size:
            raise ImageFormatError(
                f"{self._name}: the blob {wanted} has {self._size} bytes, not the {self._descriptor.size} "
                "that its descriptor says"
            )
        if found != wanted:
            raise ImageFormatError(f"{self._name}: the blob {wanted} is damaged: its bytes have digest {found}")


def read_blob(source: BlobSource, descriptor: Descriptor, *, limit: int = MAX_DOCUMENT) -> bytes:
    """A small blob's bytes, verified. ImageFormatError where it is missing, damaged or larger than `limit`."""
    if not 0 <= descriptor.size <= limit:
        raise ImageFormatError(f"{source.name}: the blob {descriptor.digest} is larger than {limit} bytes")
    with source.open(descriptor) as stream:
        verified = Verified(stream, descriptor, name=source.name)
        pieces = []
        while piece := verified.read(1 << 20):
            pieces.append(piece)
        verified.finish()
    return b"".join(pieces)


def parse_document(data: bytes, *, name: str) -> Mapping[str, Any]:
    """A JSON object. ImageFormatError where `data` is none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ImageFormatError(f"{name}: it is no JSON object")
    return document
