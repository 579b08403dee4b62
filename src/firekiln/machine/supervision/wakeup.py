"""Signals as something that a selector waits for."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def ignore(*_: object) -> None:
    """Does nothing, where something may be done."""


@contextmanager
def wakeup(numbers: Iterable[int]) -> Iterator[socket.socket]:
    """A socket from which each of the signals that arrives is read as a byte, in place of what it would do.

    For the main thread; what the signals did before holds again afterwards.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        previous = {number: signal.signal(number, ignore) for number in numbers}
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in previous.items():
                signal.signal(number, handler)
