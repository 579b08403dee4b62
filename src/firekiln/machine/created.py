"""Machines that are prepared, by `run` of an image or as clones of a snapshot, and how they are set going."""

from __future__ import annotations

from collections.abc import Callable

from firekiln.machine.machine import Machine
from firekiln.machine.supervision.state import MachineLock, Record, State
from firekiln.machine.supervision.stream import Stream
from firekiln.machine.supervision.supervise import abandon, detach, discard, launch
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A machine that is recorded and prepared, and does not run yet. Whoever has it holds its lock."""

    state: State
    record: Record
    lock: MachineLock


def begin(made: Created) -> Machine:
    """Have it run in the background. Returns when its process has started; the machine outlives this process.

    MachineError where it did not start, with Docker's `exit_status` (125, 126, 127).
    """
    try:
        detach(made.state, made.record, made.lock)
    except (KeyboardInterrupt, SystemExit):
        abandon(made.state, made.record.id)  # nobody was told of it: nobody would end it
        raise
    return Machine(made.state, made.record.id)


def own(made: Created, *, created: Callable[[Record], None] = lambda _: None) -> tuple[Record, Stream]:
    """Have it run for this process, which owns it: closing the stream without `detach` stops the machine.

    The stream says STARTED, what the process writes, and at last EXITED or FAILED.
    """
    try:
        created(made.record)
    except BaseException:
        discard(made.state, made.record.id)
        made.lock.release()
        raise
    return made.record, launch(made.state, made.record, made.lock)
