"""Content-addressed blobs: `blobs/sha256/HEX`, each the bytes that its name's digest says.

A blob's name appears at once and whole, after its bytes are on the disk. Putting what is there already is free; what
is there but damaged is replaced.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from firekiln.errors import DamagedError, StoreError
from firekiln.oci import digest as digests
from firekiln.store import failpoint
from firekiln.store.durable import fsync_directory, fsync_file, store_errors, write_all
from firekiln.store.integrity import Integrity
from firekiln.store.leases import ProcessLease
from firekiln.store.temporary import Temporary
from firekiln.values import dataclass

AGAIN = "build or pull again whatever was made with it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob that is there: its digest, its size in bytes, its file."""

    digest: str
    size: int
    path: Path


class Blobs:
    """The blobs of one store."""

    def __init__(self, root: Path, temporary: Temporary, integrity: Integrity, lease: ProcessLease) -> None:
        self.folder = root / "blobs" / "sha256"
        self._temporary = temporary
        self._integrity = integrity
        self._lease = lease

    def path(self, digest: str) -> Path:
        """Where the blob lies or would lie. ValueError where `digest` is none."""
        return self.folder / digests.encoded(digest)

    def find(self, digest: str) -> Blob | None:
        """The blob, if it is there; its bytes are not looked at."""
        path = self.path(digest)
        with self._lease.noting((digest,)), store_errors(path, "cannot read the blob"), suppress(FileNotFoundError):
            return Blob(digest=digest, size=path.stat().st_size, path=path)
        return None

    def intact(self, digest: str) -> Blob | None:
        """The blob, if it is there and its bytes are right; a damaged one is set aside."""
        found = self.find(digest)
        if found is None or self._integrity.is_intact(found.path, digest):
            return found
        self._integrity.set_aside(found.path)
        return None

    def read(self, digest: str) -> bytes:
        """A small blob's bytes, verified. DamagedError where it is missing or its bytes are not those of its digest."""
        path = self.path(digest)
        with self._lease.noting((digest,)), store_errors(path, "cannot read the blob"):
            try:
                data = path.read_bytes()
            except FileNotFoundError as error:
                raise DamagedError(f"the store lacks the blob {digest}", hint=AGAIN) from error
        if digests.of(data) != digest:
            raise DamagedError(f"the blob {path} is damaged: its bytes are not those of its digest", hint=AGAIN)
        return data

    def put(self, data: bytes) -> Blob:
        """Keep some bytes, in place of a damaged blob of that digest."""
        return self.ingest((data,), digest=digests.of(data))

    def ingest(self, chunks: Iterable[bytes], *, digest: str | None = None) -> Blob:
        """Keep a stream of bytes. StoreError, and nothing is kept, where it has another digest than `digest`."""
        if digest is not None and (known := self.intact(digest)):
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
        failpoint.reached("blob-written")
        with store_errors(self.folder, "cannot keep a blob in"):
            fsync_file(path)
            failpoint.reached("blob-synced")
            blob = self.link(path, digest)
            failpoint.reached("blob-linked")
            fsync_directory(self.folder)
        failpoint.reached("blob-kept")
        self._integrity.trust([blob.path])
        return blob

    def link(self, path: Path, digest: str) -> Blob:
        """Give a file that is on the disk already its final name; `path` is a symbolic link to it from now on.

        The caller fsyncs `folder`. OSError.
        """
        final = self.path(digest)
        replacement = path.with_name(f"{path.name}.link")
        with self._lease.noting((digest,), made=True):
            try:
                os.link(path, final)
            except FileExistsError:
                if not self._integrity.is_intact(final, digest):
                    self._integrity.set_aside(final)
                    os.link(path, final)
            # One name only: a later end of the second would change what the file's stamp is made of.
            replacement.symlink_to(final)
            replacement.replace(path)
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

    def take(self, digest: str, folder: Path | None) -> None:
        """Move a blob away, or delete it where there is no place; a missing one is no error.

        Only `gc` may know that nobody needs it.
        """
        path = self.path(digest)
        with store_errors(path, "cannot remove"), suppress(FileNotFoundError):
            if folder is not None:
                path.rename(folder / path.name)
            else:
                path.unlink()

    def all(self) -> Iterator[Blob]:
        """Every blob, in no order."""
        with store_errors(self.folder, "cannot list"), os.scandir(self.folder) as entries:
            for entry in entries:
                digest = f"sha256:{entry.name}"
                if digests.is_valid(digest):
                    yield Blob(digest=digest, size=entry.stat().st_size, path=Path(entry.path))

    def is_intact(self, blob: Blob) -> bool:
        """Read a blob as a whole: are its bytes those of its digest?"""
        return self._integrity.is_intact(blob.path, blob.digest, again=True)
