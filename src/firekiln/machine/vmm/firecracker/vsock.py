"""The host's ends of a guest's vsock, which Firecracker carries over Unix sockets.

Where the guest connects to port N of the host, Firecracker connects to the socket `PATH_N`. Where the host wants to
reach port N of the guest, it connects to `PATH`, says `CONNECT N`, and reads `OK M`. (Firecracker's docs/vsock.md.)
"""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import Final

from firekiln.errors import MachineError
from firekiln.machine.supervision.unixsocket import socket_address

_OK: Final = re.compile(rb"OK \d{1,10}\n")
_ANSWER_LIMIT: Final = 32


def listen(folder: Path, name: str, port: int, *, owner: tuple[int, int] | None = None) -> socket.socket:
    """A socket to which the guest's connections to `port` come, the vsock's path being `name` in `folder`.

    `owner` (user, group) is who runs Firecracker, where that is not this user. It does not block.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with socket_address(folder, f"{name}_{port}") as address:
            listener.bind(address)
            Path(address).chmod(0o600)
            if owner is not None:
                os.chown(address, *owner, follow_symlinks=False)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise MachineError(f"no socket for the guest in {folder}: {os.strerror(error.errno or 0).lower()}") from error
    return listener


def connect(folder: Path, name: str, port: int, *, timeout: float = 5.0) -> socket.socket:
    """A connection to `port` of the guest. MachineError where nobody listens there, or Firecracker is gone."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(folder, name) as address:
            connected = _ask(stream, address, port, time.monotonic() + timeout)
    except TimeoutError as error:
        stream.close()
        raise MachineError(f"Firecracker did not connect port {port} of the guest within {timeout:g} s") from error
    except OSError as error:
        stream.close()
        raise MachineError(f"the guest's vsock is gone: {os.strerror(error.errno or 0).lower()}") from error
    if not connected:
        stream.close()
        raise MachineError(f"nobody in the guest listens at port {port} of its vsock")
    stream.settimeout(None)
    return stream


def _ask(stream: socket.socket, address: str, port: int, deadline: float) -> bool:
    """Whether Firecracker connects the stream to the guest's port."""
    stream.settimeout(max(0.001, deadline - time.monotonic()))
    stream.connect(address)
    stream.sendall(b"CONNECT %d\n" % port)
    answer = b""
    while not answer.endswith(b"\n") and len(answer) < _ANSWER_LIMIT:
        stream.settimeout(max(0.001, deadline - time.monotonic()))
        data = stream.recv(1)  # not a byte more: what follows is the guest's
        if not data:
            break
        answer += data
    return _OK.fullmatch(answer) is not None
