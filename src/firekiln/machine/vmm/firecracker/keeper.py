"""Sees to it that a jailed Firecracker does not outlive its supervisor.

The kernel would kill it with its parent (PR_SET_PDEATHSIG), but forgets that when a process changes its user, as the
jailer does. So a child of the supervisor waits for the end of either, and has no other open file.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def kept(pid: int) -> Iterator[None]:
    """Process `pid`, a child of this one, is killed when this process ends within the block, however it ends.

    At the end of the block `pid` has been killed and waited for. Called in a process with one thread.
    """
    target = os.pidfd_open(pid)
    reader, writer = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        try:
            _keep(reader, target)
        finally:
            os._exit(0)
    os.close(reader)
    os.close(target)
    try:
        yield
    finally:
        os.close(writer)
        with suppress(ChildProcessError):
            os.waitpid(keeper, 0)


def _keep(reader: int, target: int) -> None:
    """Wait until the pipe's other end or the target is gone; then nothing of the target is left."""
    os.setsid()  # signals to the supervisor's group are not for this one
    wanted = sorted((reader, target))
    os.closerange(0, wanted[0])
    os.closerange(wanted[0] + 1, wanted[1])
    os.closerange(wanted[1] + 1, os.sysconf("SC_OPEN_MAX"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    select.select([reader, target], [], [])
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(target, signal.SIGKILL)
