"""Content-addressed blobs: `blobs/sha256/HEX`, each the bytes that its name's digest says.

A blob's name appears at once and whole, after its bytes are on the disk. Putting what is there already is free.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from firekiln.errors import StoreError
from firekiln.oci import digest as digests
from firekiln.rootfs.tree import CHUNK
from firekiln.store.durable import fsync_directory, fsync_file, store_errors, write_all
from firekiln.store.temporary import Temporary
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob that is there: its digest, its size in bytes, its file."""

    digest: str
    size: int
    path: Path


class Blobs:
    """The blobs of one store."""

    def __init__(self, root: Path, temporary: Temporary) -> None:
        self.folder = root / "blobs" / "sha256"
        self._temporary = temporary

    def path(self, digest: str) -> Path:
        """Where the blob lies or would lie. ValueError where `digest` is none."""
        return self.folder / digests.encoded(digest)

    def find(self, digest: str) -> Blob | None:
        """The blob, if it is there."""
        path = self.path(digest)
        try:
            return Blob(digest=digest, size=path.stat().st_size, path=path)
        except FileNotFoundError:
            return None

    def read(self, digest: str) -> bytes:
        """A small blob's bytes, verified. StoreError where it is missing or damaged."""
        path = self.path(digest)
        with store_errors(path, "cannot read the blob"):
            data = path.read_bytes()
        if digests.of(data) != digest:
            raise StoreError(f"the blob {path} is damaged: its bytes are not those of its digest")
        return data

    def put(self, data: bytes) -> Blob:
        """Keep some bytes."""
        return self.ingest((data,), digest=digests.of(data))

    def ingest(self, chunks: Iterable[bytes], *, digest: str | None = None) -> Blob:
        """Keep a stream of bytes. StoreError, and nothing is kept, where it has another digest than `digest`."""
        if digest is not None and (known := self.find(digest)):
            return known
        with self.spool() as path:
            found = hashlib.sha256()
            with ExitStack() as stack:
                with store_errors(path, "cannot write"):
                    file = stack.enter_context(path.open("xb", buffering=0))
                for chunk in chunks:  # whose errors are not the store's
                    found.update(chunk)
                    with store_errors(path, "cannot write"):
                        write_all(file.fileno(), chunk)
            actual = "sha256:" + found.hexdigest()
            if digest is not None and actual != digest:
                raise StoreError(f"content has digest {actual}, not {digest} as expected")
            return self.adopt(path, actual)

    def adopt(self, path: Path, digest: str) -> Blob:
        """Keep a finished file of the temporary folder under the digest that its writer computed."""
        with store_errors(self.folder, "cannot keep a blob in"):
            fsync_file(path)
            blob = self.link(path, digest)
            fsync_directory(self.folder)
        return blob

    def link(self, path: Path, digest: str) -> Blob:
        """Give a file that is on the disk already its final name too; the caller fsyncs `folder`. OSError."""
        final = self.path(digest)
        with suppress(FileExistsError):
            os.link(path, final)
        return Blob(digest=digest, size=final.stat().st_size, path=final)

    @contextmanager
    def spool(self) -> Iterator[Path]:
        """A path in the temporary folder for a file to be made; what lies there at the end is removed."""
        path = self._temporary.folder / f"blob.{secrets.token_hex(8)}"
        try:
            yield path
        finally:
            with suppress(FileNotFoundError):
                path.unlink()

    def delete(self, digest: str) -> None:
        """Remove a blob; a missing one is no error. Only `gc` and `images` may know that nobody needs it."""
        path = self.path(digest)
        with store_errors(path, "cannot remove"), suppress(FileNotFoundError):
            path.unlink()

    def all(self) -> Iterator[Blob]:
        """Every blob, in no order."""
        with store_errors(self.folder, "cannot list"), os.scandir(self.folder) as entries:
            for entry in entries:
                digest = f"sha256:{entry.name}"
                if digests.is_valid(digest):
                    yield Blob(digest=digest, size=entry.stat().st_size, path=Path(entry.path))

    def verify(self, blob: Blob) -> None:
        """Read a blob as a whole. StoreError where its bytes are not those of its digest."""
        found = hashlib.sha256()
        with store_errors(blob.path, "cannot read the blob"), blob.path.open("rb") as file:
            while chunk := file.read(CHUNK):
                found.update(chunk)
        if "sha256:" + found.hexdigest() != blob.digest:
            raise StoreError(f"the blob {blob.path} is damaged: its bytes are not those of its digest")
