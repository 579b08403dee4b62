"""The drive by which a running machine is given file systems that it was not booted with.

It is a sparse file, larger than all that a build may need: what is put there lies behind what was put there before, and
is called by its place. No byte of it is ever written twice, so that nothing the guest has read of it is out of date.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from firekiln.errors import MachineError
from firekiln.rootfs import erofs
from firekiln.rootfs.content import copy_range
from firekiln.rootfs.tree import Tree
from firekiln.store.durable import store_errors

SIZE: Final = 1 << 40
_ALIGNMENT: Final = 1 << 20


class Delivery:
    """The drive, a new file at `path`. `close` leaves the file to whoever removes its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0
        with store_errors(path, "cannot make a drive"):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._fd, SIZE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def put(self, path: Path) -> tuple[int, int]:
        """Put a file's bytes there: their place and their number."""
        with store_errors(self.path, "cannot write a drive"):
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(source).st_size
                if self._position + size > SIZE:
                    raise MachineError("this machine has been given more than its drive takes")
                offset = os.lseek(self._fd, self._position, os.SEEK_SET)
                copy_range(source, self._fd, size, 0)
            finally:
                os.close(source)
        self._position = -(-(offset + size) // _ALIGNMENT) * _ALIGNMENT
        return offset, size

    def put_tree(self, tree: Tree) -> tuple[int, int]:
        """The same for a Tree, as EROFS. RootfsError where that can't hold it."""
        with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
            made = Path(folder) / "tree"
            erofs.write(tree, made)
            return self.put(made)
