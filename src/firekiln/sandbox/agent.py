"""An ssh agent's socket as a step sees it: a socket of its own with the owner and mode that the step asked for.

The host's socket itself is not handed over: its owner and mode are the user's business, and a bind mount has no others.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_CHUNK: Final = 1 << 16


@contextmanager
def forwarding(target: Path, folder: int, name: str) -> Iterator[None]:
    """A listening socket `name` in the directory `folder`, whose connections go on to the socket `target`.

    OSError where `target` is no socket that listens.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.connect(str(target))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    waker, wakened = socket.socketpair()
    with listener, waker, wakened:
        path = f"/proc/self/fd/{folder}/{name}"
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener, wakened, target), daemon=True)
        thread.start()
        try:
            yield
        finally:
            waker.close()
            thread.join()


def _serve(listener: socket.socket, wakened: socket.socket, target: Path) -> None:
    """Shuttle until `wakened` is closed at its other end. A peer that does not read blocks only its own step."""
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(wakened, selectors.EVENT_READ)
        try:
            while True:
                for key, _ in selector.select():
                    if key.fileobj is wakened:
                        return
                    if key.fileobj is listener:
                        _accept(listener, selector, target)
                    else:
                        _shuttle(selector, key)
        finally:
            for key in list(selector.get_map().values()):
                if isinstance(key.data, socket.socket) and isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()


def _accept(listener: socket.socket, selector: selectors.BaseSelector, target: Path) -> None:
    near, _ = listener.accept()
    far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        far.connect(str(target))
    except OSError:
        near.close()
        far.close()
        return
    for one, other in ((near, far), (far, near)):
        one.settimeout(5)
        selector.register(one, selectors.EVENT_READ, other)


def _shuttle(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    source, sink = key.fileobj, key.data
    assert isinstance(source, socket.socket)
    with contextlib.suppress(OSError):
        if data := source.recv(_CHUNK):
            sink.sendall(data)
            return
    for one in (source, sink):
        with contextlib.suppress(KeyError, ValueError):
            selector.unregister(one)
        one.close()
