"""`index.json`: which images there are. Replaced atomically, under a lock; repaired where it proves damaged.

Its annotation ANNOTATION_CHECKSUM is the digest of the document without it, so that a bit that flipped in a name is
not taken for another name. Each version is written to `index.json.copy` first. A damaged (or vanished) index.json is
set aside as `index.json.damaged`, and the copy takes its place; where that is damaged too, images are found again by
their manifests among the blobs, and what was said of them by the statements there. They have lost their names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from firekiln.errors import DamagedError
from firekiln.oci import attestation
from firekiln.oci import digest as digests
from firekiln.oci.config import Image
from firekiln.oci.manifest import MEDIA_TYPE_MANIFEST, Descriptor, Index, Manifest
from firekiln.store import locks
from firekiln.store.blobs import Blob, Blobs
from firekiln.store.durable import replace_file, store_errors
from firekiln.store.temporary import Temporary

ANNOTATION_CHECKSUM = "io.firekiln.index.checksum"
ANNOTATION_ATTESTATION = "dev.firekiln.attestation."
"""The beginning of those for statements about an image: the kind follows, the value is a blob's digest."""
_LARGEST_STATEMENT = 256 << 20
_LARGEST_MANIFEST = 4 << 20
"""Bytes: what distribution-spec has registries accept at least; larger blobs are no manifests."""


class Catalog:
    """The index.json of one store."""

    def __init__(self, root: Path, blobs: Blobs, lock: locks.Locks, temporary: Temporary) -> None:
        self._path = root / "index.json"
        self._copy = root / "index.json.copy"
        self._blobs = blobs
        self._locks = lock
        self._temporary = temporary

    def read(self) -> Index:
        """What is there now; nothing where nothing ever was. StoreError where it can't be read."""
        index = self._load(self._path)
        if index is None and (self._path.exists() or self._copy.exists()):
            index = self._repaired()
        return index or Index()

    def change(self, change: Callable[[Index], Index]) -> Index:
        """Replace index.json by what `change` makes of it, if that differs."""
        with self._locks.held(locks.IMAGES):
            old = self._current()
            new = change(old)
            if new != old:
                self._write(new)
        return new

    def _load(self, path: Path) -> Index | None:
        """The index in a file; None where there is no file, or none that can be trusted."""
        try:
            with store_errors(path, "cannot read"):
                data = path.read_bytes() if path.exists() else b""
            return _decoded(data)
        except (KeyError, TypeError, ValueError):
            return None

    def _write(self, index: Index) -> None:
        data = _encoded(index)
        with store_errors(self._path, "cannot write"):
            # Not fsynced: after a power loss index.json is right, or the copy of an earlier one is.
            copy = self._temporary.folder / self._copy.name
            copy.write_bytes(data)
            copy.replace(self._copy)
            replace_file(self._path, data, temporary=self._temporary.folder)

    def _repaired(self) -> Index:
        """The index as far as it can be had again, put in its place if that can be written to."""
        if not os.access(self._path.parent, os.W_OK):
            return self._recovered()
        with self._locks.held(locks.IMAGES):
            return self._current()

    def _current(self) -> Index:
        """What is there, repaired if need be. The lock is held."""
        index = self._load(self._path)
        if index is not None or not (self._path.exists() or self._copy.exists()):
            return index or Index()
        index = self._recovered()
        with store_errors(self._path, "cannot set aside"), suppress(FileNotFoundError):
            self._path.rename(f"{self._path}.damaged")
        self._write(index)
        return index

    def _recovered(self) -> Index:
        """What index.json held: by its copy, else by the manifests among the blobs."""
        index = self._load(self._copy)
        if index is not None:
            return index
        blobs = sorted(self._blobs.all(), key=lambda blob: blob.digest)
        statements = self._statements(blobs)
        found = filter(None, map(self._described, blobs))
        return Index(manifests=tuple(item.annotated(**statements.get(item.digest, {})) for item in found))

    def _statements(self, blobs: Sequence[Blob]) -> Mapping[str, Mapping[str, str]]:
        """The annotations for what is said of images among the blobs, by their digests; of a kind the youngest."""
        found: dict[str, dict[str, str]] = {}
        dated = [(made, blob) for blob in blobs if (made := _statement_time(blob)) is not None]
        for _, blob in sorted(dated, key=lambda item: item[0]):
            with suppress(AttributeError, KeyError, TypeError, ValueError, DamagedError):
                kind, subjects = attestation.read(self._blobs.read(blob.digest))
                for digest in subjects:
                    found.setdefault(digest, {})[ANNOTATION_ATTESTATION + kind] = blob.digest
        return found

    def _described(self, blob: Blob) -> Descriptor | None:
        """The descriptor of an image whose manifest the blob is, if it is one whose config is there too."""
        if blob.size > _LARGEST_MANIFEST:
            return None
        try:
            manifest = Manifest.from_json(json.loads(self._blobs.read(blob.digest)))
            image = Image.from_json(json.loads(self._blobs.read(manifest.config.digest)))
        except (AttributeError, KeyError, TypeError, ValueError, DamagedError):
            return None
        return Descriptor(media_type=MEDIA_TYPE_MANIFEST, digest=blob.digest, size=blob.size, platform=image.platform)


def _statement_time(blob: Blob) -> int | None:
    """When a blob that may be a statement was written, in nanoseconds; None for any other, or one that is gone."""
    if blob.size > _LARGEST_STATEMENT:
        return None
    with store_errors(blob.path, "cannot read the blob"), suppress(FileNotFoundError), blob.path.open("rb") as file:
        if file.read(len(attestation.BEGINNING)) == attestation.BEGINNING:
            return os.fstat(file.fileno()).st_mtime_ns
    return None


def _encoded(index: Index) -> bytes:
    plain = _plain(index)
    checksum = digests.of(plain.encode())
    return replace(plain, annotations={**plain.annotations, ANNOTATION_CHECKSUM: checksum}).encode()


def _decoded(data: bytes) -> Index:
    """KeyError, TypeError or ValueError where `data` is no index, or not what was written."""
    document = json.loads(data)
    if not isinstance(document, dict):
        raise TypeError("no object")
    index = Index.from_json(document)
    plain = _plain(index)
    checksum = index.annotations.get(ANNOTATION_CHECKSUM)
    # Without one it is another program's, or an earlier version's of this.
    if checksum is not None and checksum != digests.of(plain.encode()):
        raise ValueError("another checksum")
    return plain


def _plain(index: Index) -> Index:
    return replace(index, annotations={k: v for k, v in index.annotations.items() if k != ANNOTATION_CHECKSUM})
