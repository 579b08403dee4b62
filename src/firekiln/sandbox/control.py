"""Messages with descriptors between our processes: SOCK_SEQPACKET and SCM_RIGHTS (unix(7))."""

from __future__ import annotations

import json
import os
import socket
from array import array
from collections.abc import Sequence
from typing import Any, Final

from firekiln.sandbox.request import DESCRIPTORS

_LIMIT: Final = 1 << 16


def send(control: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    """Copies of the descriptors go with it. OSError where nobody is there, or the message is too long."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
    control.sendmsg([data], rights, socket.MSG_NOSIGNAL)


def receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """A message and what came with it, which is the caller's to close. Nothing at the end."""
    descriptors = array("i")
    space = socket.CMSG_SPACE(DESCRIPTORS * descriptors.itemsize)
    data, ancillary, _, _ = control.recvmsg(_LIMIT, space, socket.MSG_CMSG_CLOEXEC)
    for _, _, payload in ancillary:
        descriptors.frombytes(payload[: len(payload) // descriptors.itemsize * descriptors.itemsize])
    return data, list(descriptors)


def send_body(channel: socket.socket, body: object, descriptors: Sequence[int] = ()) -> None:
    """A message of any length: JSON in a memory file, the first descriptor."""
    file = os.memfd_create("firekiln", os.MFD_CLOEXEC)
    try:
        view = memoryview(json.dumps(body).encode())
        while view:
            view = view[os.write(file, view) :]
        send(channel, b"body", [file, *descriptors])
    finally:
        os.close(file)


def receive_body(channel: socket.socket) -> tuple[Any, list[int]]:
    """What `send_body` sent, and the other descriptors. EOFError at the end."""
    _, descriptors = receive(channel)
    if not descriptors:
        raise EOFError
    try:
        return json.loads(os.pread(descriptors[0], os.fstat(descriptors[0]).st_size, 0)), descriptors[1:]
    finally:
        os.close(descriptors[0])
