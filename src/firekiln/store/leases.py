"""Leases: whoever uses layers that no image need name any more (a machine) says so, and `gc` leaves them.

A lease is a small file, `leases/NAME`, with a digest on each line. It outlives its holder until it is released.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from firekiln.oci import digest as digests
from firekiln.store.durable import replace_file, store_errors
from firekiln.store.temporary import Temporary


class Leases:
    """The leases of one store."""

    def __init__(self, folder: Path, temporary: Temporary) -> None:
        self._folder = folder
        self._temporary = temporary

    def hold(self, name: str, blobs: Iterable[str]) -> None:
        """Keep `blobs` (digests) until `release(name)`; an earlier lease of that name is replaced."""
        text = "".join(f"{digests.check(digest)}\n" for digest in blobs)
        path = self._path(name)
        with store_errors(path, "cannot write"):
            replace_file(path, text.encode(), temporary=self._temporary.folder)

    def release(self, name: str) -> None:
        """End a lease; a missing one is no error."""
        path = self._path(name)
        with store_errors(path, "cannot remove"), suppress(FileNotFoundError):
            path.unlink()

    def blobs(self) -> set[str]:
        """All digests that somebody holds."""
        held: set[str] = set()
        with store_errors(self._folder, "cannot read"):
            for path in self._folder.iterdir():
                with suppress(FileNotFoundError):
                    held.update(path.read_text().split())
        return held

    def _path(self, name: str) -> Path:
        if not name or name.startswith(".") or os.sep in name or "\0" in name:
            raise ValueError(f'"{name}" cannot name a lease')
        return self._folder / name
