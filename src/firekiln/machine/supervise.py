"""A machine run and recorded: in this process, or, as `python -m firekiln.machine.supervise`, in one of its own.

The detached one is told the machine's folder, and inherits two descriptors: the machine's lock, which it holds to the
end, and a pipe, to which it writes one JSON line when the machine's process has started, or could not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from firekiln.errors import FirekilnError, MachineError
from firekiln.machine import control
from firekiln.machine.accel import choose_qemu
from firekiln.machine.ending import End
from firekiln.machine.hostfacts import HostFacts
from firekiln.machine.log import Stream
from firekiln.machine.settings import Settings
from firekiln.machine.state import MachineLock, Record, State
from firekiln.machine.supervisor import Hooks, Supervisor, ignore
from firekiln.store import Store

_ANSWER_DEADLINE = 10.0
_ASK_AGAIN = 0.02


def supervise(
    state: State,
    record: Record,
    lock: MachineLock,
    *,
    output: Callable[[Stream, bytes], None] = ignore,
    started: Callable[[], None] = ignore,
) -> End:
    """Run the machine to its end and record what becomes of it; the lock is released last.

    Raises a FirekilnError where the process never started; it is recorded too. With `auto_remove` nothing is left.
    """
    settings = Settings.decode(record.settings)

    def on_start(pid: int) -> None:
        state.update(record.id, status="running", started_ns=time.time_ns(), pid=pid)
        started()

    def on_end(end: End) -> None:
        changes = {"exit_status": end.status, "error": end.error, "oom": end.oom}
        state.update(record.id, status="exited", finished_ns=time.time_ns(), pid=0, **changes)

    try:
        vmm = choose_qemu(settings.spec.kernel, settings.kernel_digest, HostFacts(state.folder / "host.json"))
        hooks = Hooks(output=output, started=on_start)
        return Supervisor(settings, vmm, state.folder_of(record.id), hooks).run(on_end)
    except FirekilnError as error:
        state.update(record.id, exit_status=error.exit_status, error=error.message, finished_ns=time.time_ns())
        raise
    finally:
        if settings.auto_remove:
            discard(state, record.id)
        lock.release()


def discard(state: State, machine_id: str) -> None:
    """Forget a machine that does not run: its folder, its row, its hold on layers. Idempotent."""
    with Store.open(state.folder.parent) as store:
        store.leases.release(lease_name(machine_id))
    state.remove(machine_id)


def abandon(state: State, machine_id: str) -> None:
    """End a machine at once, however far it has come, and forget it. Returns when its supervisor is gone."""
    while state.is_alive(machine_id):
        with suppress(MachineError):  # a supervisor that has no socket yet is asked again
            control.ask(state.folder_of(machine_id), {"do": "stop", "timeout": 0}, timeout=_ANSWER_DEADLINE)
        time.sleep(_ASK_AGAIN)
    discard(state, machine_id)


def sweep(state: State) -> None:
    """Forget the machines that were to be removed at their end, but whose supervisor was killed before that."""
    if not state.writable:
        return
    for record in state.list():
        if Settings.decode(record.settings).auto_remove and not state.is_alive(record.id):
            discard(state, record.id)


def lease_name(machine_id: str) -> str:
    """The name under which a machine holds its layers in the store."""
    return f"machine-{machine_id}"


def detach(state: State, record: Record, lock: MachineLock) -> None:
    """Run the machine in a process of its own, and return when its process has started.

    The lock passes to that process. Raises the FirekilnError with which the start failed.
    """
    log = state.folder_of(record.id) / "supervisor.log"
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as answer:
        try:
            argv = [sys.executable, "-m", __name__, str(state.folder), record.id, str(lock.fd), str(writer)]
            with log.open("wb") as complaints:
                subprocess.run(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=complaints,
                    pass_fds=[lock.fd, writer],
                    cwd="/",
                    start_new_session=True,
                    check=False,
                )
        finally:
            os.close(writer)
            lock.release()
        line = answer.readline()
    if not line:
        reason = "it ended without a word"
        with suppress(OSError):
            reason = (log.read_text(errors="replace").strip().splitlines() or [reason])[-1]
        raise MachineError(f"the machine's supervisor failed: {reason}", hint="firekiln ps -a says what is left")
    said = json.loads(line)
    if "error" in said:
        error = MachineError(said["error"], hint=said["hint"])
        error.exit_status = said["exit_status"]
        raise error


def main(argv: list[str]) -> None:
    """The detached supervisor: a child of this process, so that whoever started it has no child to wait for."""
    if os.fork():
        os._exit(0)
    folder, machine_id, lock_fd, answer_fd = argv
    os.set_inheritable(int(lock_fd), False)
    os.set_inheritable(int(answer_fd), False)
    state = State(Path(folder))

    def answer(**fields: object) -> None:
        os.write(int(answer_fd), json.dumps(fields).encode() + b"\n")
        os.close(int(answer_fd))

    try:
        supervise(state, state.get(machine_id), MachineLock(int(lock_fd)), started=lambda: answer(started=True))
    except FirekilnError as error:
        answer(error=error.message, hint=error.hint, exit_status=error.exit_status)


if __name__ == "__main__":
    main(sys.argv[1:])
