"""How a machine ended: judged from what its guest reported, its VMM's exit, and what both printed. Pure."""

from __future__ import annotations

import re

from firekiln.errors import FirekilnError, MachineError, NoTimerError
from firekiln.machine.guest.reports import Exited, Failed
from firekiln.machine.network.ports import port_taken
from firekiln.values import dataclass

LOST = 255
"""The exit status where the guest went without a word (a panic, a reset): no command's own, and none of Docker's."""

_TAIL_LIMIT = 8192
_PORT_TAKEN = re.compile(r"[Cc]ould not set up host forwarding rule '\w+:([0-9.]+):(\d+)")
_HUB = re.compile(r"warning: hub \d+ with no nics")
"""What QEMU says of the hub between the user network and the carrier, where no guest's interface is to be."""
_SHOWN_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A started machine's end: `status` as a shell says it. `error` is empty unless the machine itself went wrong.

    `lost`: the guest had no chance to say what became of its process. Its VMM was killed, its kernel panicked.
    """

    status: int
    error: str = ""
    oom: bool = False
    lost: bool = False


class Tail:
    """The last few KiB of a stream, for messages."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = b""

    def add(self, data: bytes) -> None:
        self._data = (self._data + data)[-_TAIL_LIMIT:]

    def lines(self) -> list[str]:
        """The last lines that say something, printable."""
        text = self._data.decode("utf-8", "replace").replace("\r", "")
        lines = ["".join(char for char in line if char.isprintable()).strip() for line in text.split("\n")]
        return [line for line in lines if line][-_SHOWN_LINES:]


def judge(result: Exited | None, *, returncode: int, stopping: bool, breach: str) -> End:
    """The end of a machine whose process had started. `returncode` is the VMM's, negative for a signal."""
    if result is not None:
        return End(status=result.status, oom=result.oom)
    if breach:
        return End(status=125, error=breach)
    if returncode < 0:
        error = "" if stopping else f"the VMM was killed by signal {-returncode}"
        return End(status=128 - returncode, error=error, lost=not stopping)
    if returncode:
        return End(status=125, error=f"the VMM failed with status {returncode}")
    return End(status=LOST, error="the guest ended without a word: its kernel panicked or was reset", lost=True)


def failure(
    failed: Failed | None,
    *,
    returncode: int,
    stopping: bool,
    number: int = 0,
    breach: str,
    complaints: Tail,
    console: Tail,
) -> FirekilnError:
    """The error of a machine whose process did not start; its `exit_status` is Docker's for that case.

    `number` is the signal that stopped it, where it was one that the supervisor received.
    """
    if failed is not None:
        error = (NoTimerError if failed.stage == "timer" else MachineError)(failed.message)
        error.exit_status = failed.status
        return error
    if stopping:
        error = MachineError("the machine was stopped before its process started")
        error.exit_status = 128 + number if number else 137
        return error
    said = [line for line in complaints.lines() if not _HUB.search(line)]
    if taken := _PORT_TAKEN.search("\n".join(said)):
        return port_taken(taken[1], taken[2])
    if returncode > 0 and said:
        return MachineError(f"the VMM could not run the machine: {said[-1]}")
    reason = breach or "the guest ended before its process started"
    if returncode < 0 and not breach:
        reason = f"the VMM was killed by signal {-returncode} before the guest's process started"
    last = console.lines()
    return MachineError(reason, hint=f"its console said: {' | '.join(last)}" if last else None)
