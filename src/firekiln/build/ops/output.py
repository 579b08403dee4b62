"""A step's output on its way to whoever listens: only so much of it, lest an endless one fill logs and memory."""

from __future__ import annotations

import os
from collections import deque
from typing import Final

from firekiln.sandbox.step import Output

MAX_SIZE: Final = 16 << 20
"""Bytes of a step's output that are passed on. BuildKit's 2 MiB cut the logs of many compilations."""
MAX_SIZE_VARIABLE: Final = "BUILDKIT_STEP_LOG_MAX_SIZE"
"""BuildKit's name for another number of bytes; -1 is any."""
_KEPT: Final = 64
_KEPT_SIZE: Final = 1 << 16


class Log:
    """Passes output on up to the limit, and keeps the last of it, at most 64 pieces and about 64 KiB."""

    def __init__(self, output: Output, limit: int | None = None) -> None:
        self._output = output
        self._left = _limit() if limit is None else limit
        self._clipped = False
        self._kept: deque[bytes] = deque(maxlen=_KEPT)
        self._size = 0

    def __call__(self, fd: int, data: bytes) -> None:
        """Receives a piece of output."""
        self._keep(data)
        if self._clipped:
            return
        if self._left < 0 or len(data) <= self._left:
            self._left -= len(data) if self._left >= 0 else 0
            self._output(fd, data)
            return
        self._clipped = True
        self._output(fd, data[: self._left])
        self._output(fd, b"\n[output clipped, log limit reached]\n")

    @property
    def last(self) -> bytes:
        """The end of the output, clipped or not."""
        return b"".join(self._kept)

    def show_end(self) -> None:
        """Pass on the end of an output that was clipped: it says what failed."""
        if self._clipped:
            self._output(2, self.last)

    def _keep(self, data: bytes) -> None:
        if len(self._kept) == _KEPT:
            self._size -= len(self._kept[0])
        self._kept.append(data)
        self._size += len(data)
        while self._size > _KEPT_SIZE and len(self._kept) > 1:
            self._size -= len(self._kept.popleft())


def _limit() -> int:
    try:
        return int(os.environ.get(MAX_SIZE_VARIABLE, ""))
    except ValueError:
        return MAX_SIZE
