"""How far an export is, in bytes: looked at from outside, by a thread, so that no writer has to tell."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

from firekiln.rootfs.tree import File, Tree, walk
from firekiln.values import dataclass

Progress = Callable[[int, int | None], None]
"""Called, by another thread, with the bytes that are written and with all that will be, where that is known."""

_PATIENCE = 1.0
_INTERVAL = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What is under way: how far it is, and how large, by its tree's content where `total` is not known."""

    measure: Callable[[], int] = lambda: 0
    tree: Tree | None = None
    total: int | None = None


class Meter:
    """Reports to `progress` what `watch`, `count` or `counted` say, once the work has taken longer than a second."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._work = _Work()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        if self._progress is not None:
            self._thread.join()

    def watch(self, path: Path, tree: Tree | None = None, *, total: int | None = None) -> None:
        """What `path` occupies of the disk is what is done, of `total` or of the tree's content."""
        self._work = _Work(measure=lambda: occupied(path), tree=tree, total=total)

    def counted(self, data: Iterable[bytes], tree: Tree | None = None, *, total: int | None = None) -> Iterator[bytes]:
        """The same pieces, counted as they pass."""
        self.count(0, tree, total=total)
        done = 0
        for piece in data:
            done += len(piece)
            self.count(done, tree, total=total)
            yield piece

    def count(self, done: int, tree: Tree | None = None, *, total: int | None = None) -> None:
        """So many bytes are done, of `total` or of the tree's content."""
        self._work = _Work(measure=lambda: done, tree=tree, total=total)

    def hashed(self, done: int, total: int) -> None:
        """As `count`, for those who call with both."""
        self.count(done, total=total)

    def _run(self) -> None:
        assert self._progress is not None
        known: Tree | None = None
        content = 0
        wait = _PATIENCE
        while not self._done.wait(wait):
            wait = _INTERVAL
            work = self._work
            done, total = work.measure(), work.total
            if not done:
                continue
            if work.tree is not None:
                if work.tree is not known:
                    known, content = work.tree, content_bytes(work.tree)
                total = content
            self._progress(done, total)


def content_bytes(tree: Tree) -> int:
    """The bytes of all files' content, holes left out, a hard link's once."""
    files = {id(node): node for _, node in walk(tree) if isinstance(node, File)}
    return sum(extent.length for node in files.values() for extent in node.extents)


def occupied(path: Path) -> int:
    """Its bytes on the disk, holes left out; 0 where it is not there."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0
