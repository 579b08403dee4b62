"""What the kernel says of a machine's processes, and what makes stopped ones go on."""

from __future__ import annotations

import os
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path

from firekiln.machine.supervision.control import NAME
from firekiln.machine.supervision.unixsocket import socket_address

_CONNECT_SECONDS = 5.0
_CREDENTIALS = "3i"
_STOPPED = frozenset("Tt")


def is_stopped(pid: int) -> bool:
    """Whether the process is there and stopped, by SIGSTOP or a debugger (proc(5), `stat`)."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in _STOPPED
    return False


def stop_child(pid: int) -> None:
    """Stop a child, and return once it is (or has ended): the kernel takes its time for it, more where it is busy."""
    _send(pid, signal.SIGSTOP)
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def wake_supervisor(folder: Path) -> None:
    """Have a machine's supervisor go on where somebody has stopped it; it is to be asked something."""
    pid = _supervisor(folder)
    if pid and is_stopped(pid):
        _send(pid, signal.SIGCONT)


def kill_supervisor(folder: Path) -> None:
    """End a supervisor that does not answer. Its VMM dies with it."""
    if pid := _supervisor(folder):
        _send(pid, signal.SIGKILL)


def _supervisor(folder: Path) -> int:
    """The process that listens at the machine's control socket, which answers for a stopped one too; 0: there is none.

    The kernel tells who called listen(2) (unix(7), SO_PEERCRED).
    """
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_CONNECT_SECONDS)
        with socket_address(folder, NAME) as address:
            client.connect(address)
        size = struct.calcsize(_CREDENTIALS)
        pid, _uid, _gid = struct.unpack(_CREDENTIALS, client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return int(pid)
    return 0


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
