"""Writes OCI image layouts into folders. Whatever can take blobs and publish a manifest is a `BlobSink`."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from firekiln.errors import ImageFormatError
from firekiln.oci import digest as digests
from firekiln.oci.blobsource import parse_document
from firekiln.oci.manifest import ANNOTATION_REF_NAME, Descriptor, Index

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class BlobSink(Protocol):
    """A place that blobs are brought to: a layout, a registry."""

    def put(self, descriptor: Descriptor, content: bytes | Path) -> None:
        """Keep a blob; one that is there already is not written again."""
        ...

    def publish(self, manifest: Descriptor) -> None:
        """Make a manifest, which was put, findable: all that it names is there."""
        ...


class LayoutFolder:
    """A layout in a folder, made if it isn't there. Others may read it meanwhile: files appear whole."""

    def __init__(self, folder: Path, *, tag: str) -> None:
        """`tag` is what `publish` names manifests. OSError where the folder can't be made or written."""
        self._folder = folder
        self._tag = tag
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)
        layout = folder / "oci-layout"
        if not layout.exists():
            self._place(layout, lambda path: _write(path, _LAYOUT))

    def put(self, descriptor: Descriptor, content: bytes | Path) -> None:
        """OSError where it can't be written. A blob of another size is replaced: it was cut off."""
        path = self._blobs / digests.encoded(descriptor.digest)
        with suppress(FileNotFoundError):
            if path.stat().st_size == descriptor.size:
                return
        if isinstance(content, bytes):
            self._place(path, lambda scratch: _write(scratch, content))
        else:
            self._place(path, lambda scratch: _copy(content, scratch))

    def publish(self, manifest: Descriptor) -> None:
        """Name a manifest in index.json; the one that bore the name is no longer listed. OSError."""
        path = self._folder / "index.json"
        named = manifest.annotated(**{ANNOTATION_REF_NAME: self._tag})
        others = [
            item for item in self._index(path).manifests if item.annotations.get(ANNOTATION_REF_NAME) != self._tag
        ]
        index = Index(manifests=(*others, named))
        self._place(path, lambda scratch: _write(scratch, index.encode()))

    def _index(self, path: Path) -> Index:
        """What index.json lists; a damaged one lists nothing."""
        with suppress(FileNotFoundError, ImageFormatError, KeyError, TypeError, ValueError):
            return Index.from_json(parse_document(path.read_bytes(), name=str(path)))
        return Index()

    def _place(self, path: Path, make: Callable[[Path], None]) -> None:
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        try:
            make(scratch)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _copy(source: Path, path: Path) -> None:
    with source.open("rb") as read, path.open("xb") as written:
        shutil.copyfileobj(read, written, 1 << 20)
        written.flush()
        os.fsync(written.fileno())
