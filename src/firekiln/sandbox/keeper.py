"""The process that has root's rights in a build's user namespace and still sees the host's files: it makes the mounts
that steps get, and touches the files of other ids.

It does for the process that runs builds, which is an ordinary one, what that does itself when it is root
(`authority.py`, `delegate.py`). A question is a message on the control socket (SOCK_SEQPACKET), JSON `[name,
arguments]`, and descriptors, the first of which is the socket for the answer. What takes long is done by a child, which
dies when that socket's other end is closed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from firekiln.sandbox import mounts, syscalls
from firekiln.sandbox.control import receive, send_body

_READABLE: Final = select.POLLIN | select.POLLHUP | select.POLLERR
_READ: Final = {stat.S_IFREG: 0o4, stat.S_IFDIR: 0o5}
"""What we need of a file's mode to read it."""

Answer = tuple[Any, Sequence[int]]
"""What is answered: values, and descriptors."""


def keep(control: socket.socket, watched: int, path: str) -> NoReturn:
    """Answer until the control socket or the watched process ends. `path` is Python's, as text."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.path[:] = path.split(os.pathsep)
    os.umask(0)
    poll = select.poll()
    poll.register(control, _READABLE)
    poll.register(watched, _READABLE)
    while [fd for fd, _ in poll.poll()] == [control.fileno()]:
        body, descriptors = receive(control)
        if not descriptors:
            break
        name, arguments = json.loads(body)
        if name in _LONG:
            _fork(name, arguments, descriptors, control)
        else:
            _do(_SHORT[name], arguments, descriptors)
        for fd in descriptors:
            os.close(fd)
    os._exit(0)


def _fork(name: str, arguments: dict[str, Any], descriptors: list[int], control: socket.socket) -> None:
    from firekiln.sandbox import snapshot  # noqa: F401, PLC0415 - once, here, and not in every child

    if os.fork():
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    control.close()
    fcntl.fcntl(descriptors[0], fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptors[0], fcntl.F_SETFL, os.O_ASYNC)  # SIGIO, whose default is to end us
    _do(_LONG[name], arguments, descriptors)
    os._exit(0)


def _do(function: Callable[..., Answer], arguments: dict[str, Any], descriptors: list[int]) -> None:
    """Call it and answer. What it opened is closed here."""
    from firekiln.errors import FirekilnError  # noqa: PLC0415 - the spawner, which is forked from here, needs none

    made: Sequence[int] = ()
    body: dict[str, Any]
    try:
        value, made = function(*descriptors[1:], **arguments)
        body = {"value": value}
    except FirekilnError as error:
        body = {"error": error.message, "hint": error.hint}
    except OSError as error:
        place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
        body = {"errno": error.errno, "error": error.strerror or str(error), "place": place}
    except BaseException as error:  # noqa: BLE001 - the border of a process: whatever it is must be told, not unwound
        body = {"error": f"{type(error).__name__}: {error}", "hint": None}
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptors[0])) as channel:
        send_body(channel, body, made)  # nobody may be waiting for it any more
    for fd in made:
        os.close(fd)


def _tmpfs(*, size: int, swap: bool) -> Answer:
    return None, [mounts.tmpfs(size=size, swap=swap)]


def _clone(*, path: str, readonly: bool) -> Answer:
    return None, [mounts.clone(Path(path), readonly=readonly)]


def _own(folder: int, *, name: str, mode: int, uid: int, gid: int) -> Answer:
    os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
    os.chmod(name, mode, dir_fd=folder)
    return None, ()


def _layer(*, path: str, folder: str) -> Answer:
    from firekiln.sandbox.snapshot import snapshot  # noqa: PLC0415 - loaded by now, see `_fork`

    place, held = snapshot(path, folder)
    return None, [mounts.clone(Path(place), readonly=True), held]


def _unpack(folder: int, *, path: str) -> Answer:
    from firekiln.rootfs import erofs  # noqa: PLC0415 - as above
    from firekiln.sandbox.materialize import materialize  # noqa: PLC0415 - as above

    materialize(erofs.read(path), folder, overlay=True)
    return None, ()


def _reveal(folder: int) -> Answer:
    """Make all below the directory (and itself) readable for root, and say what was changed and how it was."""
    found: list[Any] = []
    for _, _, names, parent in os.fwalk(".", dir_fd=folder):
        _reveal_one(parent, os.fstat(parent), found)
        for name in names:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and not _readable(status):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
                try:
                    _reveal_one(fd, status, found)
                finally:
                    os.close(fd)
    return found, ()


def _reveal_one(fd: int, status: os.stat_result, found: list[Any]) -> None:
    if _readable(status):
        return
    capability = ""
    with contextlib.suppress(OSError):  # it has none
        capability = os.getxattr(fd, b"security.capability").hex()
    found.append((status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid, capability))
    os.fchown(fd, 0, 0)
    os.fchmod(fd, 0o700)


def _readable(status: os.stat_result) -> bool:
    """Whether root, who outside is an ordinary user, can read it there."""
    needed = _READ[stat.S_IFMT(status.st_mode)]
    shift = 6 if status.st_uid == 0 else 0
    return (status.st_uid == 0 or status.st_gid != 0) and status.st_mode >> shift & needed == needed


def _remove(*, path: str) -> Answer:
    shutil.rmtree(path, ignore_errors=True)
    return None, ()


def _sweep(*, folder: str, layers: str, temporary: str) -> Answer:
    from firekiln.sandbox.snapshot import sweep  # noqa: PLC0415 - as above

    sweep(folder, layers, temporary)
    return None, ()


_SHORT: Final[dict[str, Callable[..., Answer]]] = {"tmpfs": _tmpfs, "clone": _clone, "own": _own, "reveal": _reveal}
_LONG: Final[dict[str, Callable[..., Answer]]] = {
    "layer": _layer,
    "unpack": _unpack,
    "remove": _remove,
    "sweep": _sweep,
}
