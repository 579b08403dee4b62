"""Files' content on its way into an image: a list of copies, made by a thread while Python packs the metadata.

Files lie in an image in the order of `walk`, one behind another from block to block, as they do in a layer. So what
are many files may be one copy: `Copies` joins what adjoins on both sides.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from firekiln.errors import RootfsError
from firekiln.rootfs.content import SequentialFile, ShortSourceError, Sources
from firekiln.rootfs.ext4.extents import Run
from firekiln.rootfs.ext4.layout import BLOCK
from firekiln.rootfs.inodes import shown
from firekiln.rootfs.tree import File, PathSource, Source

_LONGEST = 64 << 20
"""So that progress is seen, and a failure elsewhere ends the thread soon."""

Progress = Callable[[int, int], None]
"""Called with the bytes of content that are written, and with all of them."""


@dataclass(slots=True)
class _Copy:
    source: Source
    offset: int
    target: int
    length: int
    path: bytes


class Copies:
    """Content to be copied, in the order of its place in the image."""

    def __init__(self) -> None:
        self.list: list[_Copy] = []
        self.bytes = 0
        self._last = _Copy(PathSource(""), 0, -1, 0, b"")

    def add(self, path: bytes, file: File, runs: Sequence[Run]) -> None:
        """The content of the file at `path`, whose blocks are `runs`."""
        if len(file.extents) == len(runs) == 1:
            start, length, source, offset = file.extents[0]
            self._add(path, source, offset, (runs[0].physical - runs[0].logical) * BLOCK + start, length)
            return
        remaining = iter(runs)
        run = Run(0, 0, 0)
        for start, length, source, offset in file.extents:
            while length:
                while start >= (run.logical + run.length) * BLOCK:
                    run = next(remaining)
                step = min(length, (run.logical + run.length) * BLOCK - start)
                self._add(path, source, offset, (run.physical - run.logical) * BLOCK + start, step)
                start, offset, length = start + step, offset + step, length - step  # noqa: PLW2901 - cursors

    def _add(self, path: bytes, source: Source, offset: int, target: int, length: int) -> None:
        if isinstance(source, PathSource) and source.padded and offset % BLOCK == target % BLOCK == 0:
            length += -length % BLOCK
        self.bytes += length
        last = self._last
        if (
            last.source is source
            and last.offset + last.length == offset
            and last.target + last.length == target
            and last.length + length <= _LONGEST
        ):
            last.length += length
            return
        self._last = _Copy(source, offset, target, length, path)
        self.list.append(self._last)


class CopyingThread:
    """Makes the copies while the `with` block runs, which is left when they are all made.

    The image begins at `offset` of the file, a multiple of BLOCK. An error of the copying is raised on leaving; an
    error of the block ends the copying.
    """

    def __init__(self, fd: int, copies: Copies, progress: Progress | None, *, offset: int = 0) -> None:
        self._fd = fd
        self._offset = offset
        self._copies = copies
        self._progress = progress
        self._abandoned = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="content", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._abandoned = kind is not None
        self._thread.join()
        if self._error and kind is None:
            raise self._error

    def _run(self) -> None:
        try:
            if self._copies.list:
                self._copy_all()
        except BaseException as error:  # noqa: BLE001 - raised again by __exit__
            self._error = error

    def _copy_all(self) -> None:
        start = self._offset + self._copies.list[0].target
        done = 0
        with Sources() as sources, SequentialFile(self._fd, sources, hashed=False, start=start) as file:
            for copy in self._copies.list:
                if self._abandoned:
                    return
                _go_to(file, self._offset + copy.target)
                _copy_one(file, copy)
                done += copy.length
                if self._progress:
                    self._progress(done, self._copies.bytes)
            file.flush()


def _go_to(file: SequentialFile, position: int) -> None:
    """Zeros up to the block's end; other blocks between two copies are metadata, which somebody else writes."""
    gap = position - file.position
    padding = min(-file.position % BLOCK, gap)
    file.zeros(padding)
    if gap > padding:
        file.skip(gap - padding)


def _copy_one(file: SequentialFile, copy: _Copy) -> None:
    try:
        file.extent(copy.source, copy.offset, copy.length)
    except ShortSourceError as error:
        raise RootfsError(f"/{shown(copy.path)}: its content ended {error} bytes early while it was read") from None
    except OSError as error:
        error.add_note(f"while the content of /{shown(copy.path)} was written")
        raise
