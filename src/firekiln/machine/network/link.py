"""What joins a VMM to its networks while it runs: sockets and carriers, or taps of the kernel. New at each boot."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from firekiln.machine.network.carrier import start_carrier
from firekiln.machine.vmm.spec import MachineSpec, Nic


class Links:
    """The links of one VMM. `fds` are what it inherits for each interface; `started` closes our copies of them.

    Leaving the context takes down what was made. `tap_user` is who may open the taps by their names, where the VMM does
    that itself; `fds` are empty then.
    """

    def __init__(self, spec: MachineSpec, *, tap_user: int | None = None) -> None:
        self.fds: list[tuple[int, ...]] = []
        self.carriers: list[subprocess.Popen[bytes]] = []
        self._held = ExitStack()
        self._inherited = ExitStack()
        with ExitStack() as undo:
            undo.enter_context(self)
            for nic in spec.nics:
                others = spec.nics if nic is spec.nics[0] else ()  # the name server that the guest asks
                if nic.tap:
                    self._join_kernel(nic, others, tap_user)
                else:
                    self._join_user(nic, others)
            undo.pop_all()

    @property
    def inherited(self) -> list[int]:
        """All that the VMM inherits."""
        return [fd for fds in self.fds for fd in fds]

    def started(self) -> None:
        """The VMM has what is its own: its end is then what the carriers see."""
        self._inherited.close()

    def _join_user(self, nic: Nic, others: Sequence[Nic]) -> None:
        with ExitStack() as ours:
            pairs = [socket.socketpair() for _ in range(2)]
            for near, far in pairs:
                ours.enter_context(near)
                self._inherited.enter_context(far)
            self._run_carrier(nic, [near.fileno() for near, _ in pairs], others)
        self.fds.append(tuple(far.fileno() for _, far in pairs))

    def _join_kernel(self, nic: Nic, others: Sequence[Nic], tap_user: int | None) -> None:
        from firekiln.machine.network.kernel import joined  # noqa: PLC0415 - root's, and few networks are of that kind

        tap = self._held.enter_context(joined(nic, tap_user=tap_user))
        self._inherited.callback(os.close, tap)
        self._run_carrier(nic, (), others)
        self.fds.append(() if tap_user is not None else (tap,))

    def _run_carrier(self, nic: Nic, fds: Sequence[int], others: Sequence[Nic]) -> None:
        process = start_carrier(nic, fds, others)
        self._held.callback(_end, process)
        self.carriers.append(process)

    def close(self) -> None:
        """Idempotent."""
        self._inherited.close()
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
