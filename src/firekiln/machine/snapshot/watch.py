"""The process that makes `run --warm`'s snapshot: `python -m firekiln.machine.snapshot.watch ROOT MACHINE NAME KEY`.

It is told a machine that starts, waits until that is ready, saves it, and is gone. Why it didn't, it writes to the
machine's `snapshot.log`: nobody waits for it.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Final

from firekiln.errors import ConflictError, FirekilnError
from firekiln.machine.machine import Machine
from firekiln.machine.snapshot.ready import await_ready
from firekiln.machine.snapshot.take import take
from firekiln.machine.supervision.state import State
from firekiln.store import Store

_PATIENCE: Final = 900.0
_TRIALS: Final = 3
_AGAIN: Final = 1.0


def main(argv: list[str]) -> None:
    """A child of this process, so that whoever started it has no child to wait for."""
    if os.fork():
        os._exit(0)
    root, machine_id, name, key = argv
    with Store.open(root) as store:
        state = State(store.machines)
        machine = Machine(state, machine_id)
        try:
            await_ready(state, machine, timeout=_PATIENCE)
            _take(store, machine, name, key)
        except FirekilnError as error:
            sys.exit(f"{error.message}")


def _take(store: Store, machine: Machine, name: str, key: str) -> None:
    """Where a command is just running in the machine, or somebody else saves it, a second trial may do."""
    for trial in range(_TRIALS):
        try:
            take(store, machine, name, key=key)
        except ConflictError:
            if trial == _TRIALS - 1 or machine.record.status != "running":
                raise
            time.sleep(_AGAIN)
        else:
            return


if __name__ == "__main__":
    main(sys.argv[1:])
