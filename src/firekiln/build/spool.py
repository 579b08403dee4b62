"""Content that comes from elsewhere on its way into a layer: an unnamed file, gone with the last Tree that holds it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firekiln.errors import BuildError
from firekiln.rootfs.tree import Extent


class Spool:
    """A `Source` that is written first. It has no name, so that not even a killed process leaves it behind."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is on the file system that holds the content; None is the host's temporary folder."""
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - lives as long as its Tree
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append. BuildError where the disk is full."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise BuildError(f"cannot keep fetched or unpacked files: {error.strerror}") from None
        self.size += len(data)

    @contextmanager
    def open(self) -> Iterator[int]:
        yield self._file.fileno()

    def extents(self) -> tuple[Extent, ...]:
        """All that was written, as a file's content."""
        return (Extent(0, self.size, self, 0),) if self.size else ()
