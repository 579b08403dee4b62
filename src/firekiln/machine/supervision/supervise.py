"""A machine run and recorded by a process of its own: `python -m firekiln.machine.supervision`.

It is told the machine's folder, and inherits two descriptors: the machine's lock, which it holds to the end, and a
socket, its owner's session, on which it says STARTED when the machine's process has started, or FAILED.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from firekiln.errors import ContainerNotFoundError, FirekilnError, MachineError, NoTimerError, StoreError
from firekiln.machine.guest.protocol import FrameType
from firekiln.machine.guest.reports import Exited, Health, HealthStatus
from firekiln.machine.snapshot.origin import Origin, take_origin
from firekiln.machine.supervision import control, lastword
from firekiln.machine.supervision.clients import Clients
from firekiln.machine.supervision.ending import End
from firekiln.machine.supervision.journal import note
from firekiln.machine.supervision.live import Live, replaced, with_result, write_live
from firekiln.machine.supervision.processes import is_stopped
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.supervision.state import MachineLock, Record, State
from firekiln.machine.supervision.stream import Stream
from firekiln.machine.supervision.supervisor import Hooks, Supervisor
from firekiln.machine.supervision.wakeup import wakeup
from firekiln.machine.vmm.backend import Vmm
from firekiln.machine.vmm.choice import back_end, clear_jail
from firekiln.machine.vmm.hostfacts import HostFacts
from firekiln.machine.volumes.lock import held
from firekiln.machine.volumes.mountpoint import volumes_used
from firekiln.store.durable import store_errors

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What stops a machine in order when its supervisor receives it; a second one ends it at once."""

_RECORD = "record.json"
_ANSWER_DEADLINE = 10.0
_SILENT = "the guest does not answer"
_ASK_AGAIN = 0.02
_FIRST_PAUSE = 0.1
_TIMER_TRIALS = 5
_LONGEST_PAUSE = 60.0
_CALM = 10.0
"""Seconds that a boot must have lasted for the pause before the next to be the first again."""


class _Run:
    """One run of a machine: as many boots as its restart policy wants."""

    def __init__(self, state: State, record: Record, settings: Settings, selector: selectors.BaseSelector) -> None:
        self._state = state
        self._record = record
        self._settings = settings
        self._selector = selector
        self._folder = state.folder_of(record.id)
        self._live = Live(health="starting" if settings.health else "")
        self._origin: Origin | None = None
        self._before = 0
        """Restarts up to the present boot, this one among them."""
        self._restarts = 0

    def run(self, clients: Clients, vmm: Vmm) -> End:
        """To the end. Raises a FirekilnError where the process never started."""
        pause = _FIRST_PAUSE
        self._origin = take_origin(self._folder)
        hooks = Hooks(
            started=lambda pid, restarts: self._on_start(clients, pid, restarts),
            restarting=self._on_restarting,
            health=self._on_health,
            silent=self._on_silence,
        )
        while True:
            begun = time.monotonic()
            end = self._boot(clients, vmm, hooks)
            self._origin = None  # what a boot left is on its drives
            if not self._is_to_boot_again(end, clients):
                return end
            pause = _FIRST_PAUSE if time.monotonic() - begun > _CALM else pause
            self._before, self._restarts = self._live.restarts + 1, 0
            self.write(status="restarting", pid=0, restarts=self._before)
            self._wait(clients, pause)
            if clients.is_stopping:
                return end
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _boot(self, clients: Clients, vmm: Vmm, hooks: Hooks) -> End:
        """One boot; another at once, a few times, where the host was too busy for the kernel to find its timer."""
        trials = _TIMER_TRIALS
        while True:
            boot = Supervisor(
                self._next_boot(),
                vmm,
                self._folder,
                selector=self._selector,
                clients=clients,
                hooks=hooks,
                origin=self._origin,
            )
            try:
                return boot.run()
            except NoTimerError:
                trials -= 1
                if not trials or clients.is_stopping:
                    raise

    def journal(self, action: str, attributes: Mapping[str, str]) -> None:
        note(
            self._state.folder,
            action,
            machine_id=self._record.id,
            name=self._record.name,
            image=self._record.image,
            **attributes,
        )

    def write(self, **changes: object) -> None:
        self._live = replaced(self._live, **changes)
        with suppress(OSError):  # a full disk must not end the service
            write_live(self._folder, self._live)

    @property
    def started_ns(self) -> int:
        return self._live.started_ns

    def _next_boot(self) -> Settings:
        """With the guest told how many restarts there were: those that its policy allows are of all boots together."""
        if not self._before:
            return self._settings
        spec = self._settings.spec
        words = (*spec.command_line, f"firekiln.restarts={self._before}")
        return replace(self._settings, spec=replace(spec, command_line=words))

    def _is_to_boot_again(self, end: End, clients: Clients) -> bool:
        """What the guest's own policy could not see: its VMM was killed, its kernel panicked."""
        policy, retries = self._settings.restart
        if not end.lost or clients.is_stopping or policy == "no":
            return False
        return policy != "on-failure" or not retries or self._live.restarts < retries

    def _wait(self, clients: Clients, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not clients.is_stopping and (left := deadline - time.monotonic()) > 0:
            for key, ready in self._selector.select(left):
                key.data(ready)

    def _on_start(self, clients: Clients, pid: int, restarts: int) -> None:
        self._restarts = restarts
        health: Mapping[str, object] = {"health": "starting" if self._settings.health else "", "streak": 0}
        if self._origin is not None and not restarts:
            health = self._origin.health
        self.write(status="running", pid=pid, started_ns=time.time_ns(), restarts=self._before + restarts, **health)
        self.journal("start", {})
        clients.started()

    def _on_restarting(self, event: Exited) -> None:
        self.write(status="restarting", restarts=self._before + self._restarts + 1)
        self.journal("die", {"exitCode": str(event.status)})

    def _on_silence(self) -> None:
        """No result of a health check has come for as long as one may take: the guest hangs."""
        if is_stopped(self._live.pid):
            return  # Docker checks nothing of what is paused either
        streak, now = self._live.streak + 1, time.time_ns()
        is_over = streak >= self._settings.health_limit[1]
        status = "unhealthy" if is_over else cast("HealthStatus", self._live.health)
        self._on_health(Health(status=status, streak=streak, start_ns=now, end_ns=now, code=-1, output=_SILENT))

    def _on_health(self, result: Health) -> None:
        before = self._live.health
        self._live = with_result(self._live, result)
        self.write()
        if result.status != before:
            self.journal(f"health_status: {result.status}", {})


def supervise(state: State, record: Record, lock: MachineLock, owner: socket.socket) -> None:
    """Run the machine to its end, and record what becomes of it; then the lock is released, and all are told.

    With `auto_remove` nothing is left.
    """
    settings = Settings.decode(record.settings)
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        run = _Run(state, record, settings, selector)
        clients = Clients(
            state.folder_of(record.id),
            selector,
            stop_signal=settings.stop_signal,
            stop_timeout=settings.stop_timeout,
            stdin=settings.open_stdin,
            closes_stdin=settings.stdin_once,
            journal=run.journal,
        )
        stack.enter_context(clients)
        signals = stack.enter_context(wakeup(SIGNALS))
        selector.register(signals, selectors.EVENT_READ, lambda _: [*map(clients.received, signals.recv(4096))])
        clients.adopt(owner)
        tell = _recorded(run, state, record, settings, clients)
        if settings.auto_remove:
            discard(state, record.id, volumes=True)
        lock.release()
        tell()


def _recorded(run: _Run, state: State, record: Record, settings: Settings, clients: Clients) -> Callable[[], None]:
    """Run and record; what then is to be told to the clients."""
    try:
        facts = HostFacts(state.folder / "host.json")
        folder = state.folder_of(record.id)
        with store_errors(folder, "cannot write to"):
            lastword.reserve(folder)
        vmm = back_end(settings.vmm, settings.spec, settings.kernel_digest, facts, folder)
        with held(state.folder.parent, volumes_used(settings.mounts)):
            end = run.run(clients, vmm)
    except FirekilnError as error:
        status, message, hint = error.exit_status, error.message, error.hint
        # As in Docker, what has never run remains what was created.
        ended = {"status": "exited", "started_ns": run.started_ns} if run.started_ns else {}
        _put_down(state, record.id, exit_status=status, error=message, finished_ns=time.time_ns(), pid=0, **ended)
        run.journal("die", {"exitCode": str(status)})
        fields = {"message": message, "hint": hint, "status": status}
        return lambda: clients.finish(status, FrameType.FAILED, **fields)
    _put_down(
        state,
        record.id,
        status="exited",
        started_ns=run.started_ns,
        finished_ns=time.time_ns(),
        pid=0,
        exit_status=end.status,
        error=end.error,
        oom=end.oom,
    )
    if end.oom:
        run.journal("oom", {})
    run.journal("die", {"exitCode": str(end.status)})
    return lambda: clients.finish(end.status, FrameType.EXITED, code=end.status, error=end.error, oom=end.oom)


def _put_down(state: State, machine_id: str, **changes: Any) -> None:
    """Record the end, in the machine's folder where the database can't be written: the disk is full."""
    try:
        state.update(machine_id, **changes)
    except StoreError:
        lastword.leave(state.folder_of(machine_id), changes)


def discard(state: State, machine_id: str, *, volumes: bool = False) -> None:
    """Forget a machine that does not run: its folder, its row, its hold on layers; with `volumes` those of its volumes
    that have no name of their own. Idempotent.
    """
    from firekiln.store import Store  # noqa: PLC0415 - nothing of it is needed while a machine runs

    with Store.open(state.folder.parent) as store:
        used = _volumes_of(state, machine_id) if volumes else ()
        store.leases.release(lease_name(machine_id))
        clear_jail(store.root, machine_id)
        state.remove(machine_id)
        leave_networks(store.root, machine_id)
        if used:
            from firekiln.machine.volumes.use import remove_anonymous  # noqa: PLC0415 - most machines have none

            remove_anonymous(store, used)


def _volumes_of(state: State, machine_id: str) -> tuple[str, ...]:
    with suppress(ContainerNotFoundError):
        return tuple(volumes_used(Settings.decode(state.get(machine_id).settings).mounts))
    return ()


def abandon(state: State, machine_id: str) -> None:
    """End a machine at once, however far it has come, and forget it. Returns when its supervisor is gone."""
    while state.is_alive(machine_id):
        with suppress(MachineError):  # a supervisor that has no socket yet is asked again
            control.ask(state.folder_of(machine_id), {"do": "stop", "timeout": 0}, timeout=_ANSWER_DEADLINE)
        time.sleep(_ASK_AGAIN)
    discard(state, machine_id, volumes=True)


def sweep(state: State) -> None:
    """Forget the machines that were to be removed at their end, but whose supervisor was killed before that."""
    if not state.writable:
        return
    for record in state.list():
        over = record.status == "exited" and not state.is_alive(record.id)  # what was only created may be started yet
        if over and Settings.decode(record.settings).auto_remove:
            discard(state, record.id, volumes=True)
    if os.geteuid() == 0 and any((state.folder.parent / "networks").glob("*/*.up")):
        from firekiln.machine.network.kernel import sweep_kernel  # noqa: PLC0415 - few machines are of such networks

        sweep_kernel(state.folder.parent)


def leave_networks(root: Path, machine_id: str) -> None:
    """Give back a machine's addresses in the networks of the store at `root`."""
    if (root / "networks").is_dir():
        from firekiln.machine.network.networks import Networks  # noqa: PLC0415 - as above

        Networks(root).leave(machine_id)


def lease_name(machine_id: str) -> str:
    """The name under which a machine holds its layers in the store."""
    return f"machine-{machine_id}"


def launch(state: State, record: Record, lock: MachineLock) -> Stream:
    """Start a machine's supervisor; the owner's session. The lock passes to it.

    The machine stops when the stream is closed without `detach`.
    """
    # The record is handed over as a file: the supervisor shall not need a database before its end.
    with store_errors(state.folder_of(record.id), "cannot prepare the machine in"):
        (state.folder_of(record.id) / _RECORD).write_text(json.dumps(asdict(record)))
    log = state.folder_of(record.id) / "supervisor.log"
    ours, theirs = socket.socketpair()
    try:
        argv = [sys.executable, "-m", __package__, str(state.folder), record.id, str(lock.fd), str(theirs.fileno())]
        with log.open("wb") as complaints:
            subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=[lock.fd, theirs.fileno()],
                cwd="/",
                start_new_session=True,
                check=False,
            )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        lock.release()
    return Stream(ours)


def lost(state: State, machine_id: str) -> MachineError:
    """The error of a machine whose supervisor ended without a word."""
    reason = "it ended without a word"
    with suppress(OSError):
        text = (state.folder_of(machine_id) / "supervisor.log").read_text(errors="replace")
        reason = (text.strip().splitlines() or [reason])[-1]
    return MachineError(f"the machine's supervisor failed: {reason}", hint="firekiln ps -a says what is left")


def detach(state: State, record: Record, lock: MachineLock) -> None:
    """Run the machine, and return when its process has started, leaving it alone.

    Raises the MachineError with which the start failed.
    """
    with launch(state, record, lock) as stream:
        if not stream.leave():
            raise lost(state, record.id)


def main(argv: list[str]) -> None:
    """The supervisor: a child of this process, so that whoever started it has no child to wait for."""
    if os.fork():
        os._exit(0)
    folder, machine_id, lock_fd, owner_fd = argv
    os.set_inheritable(int(lock_fd), False)
    os.set_inheritable(int(owner_fd), False)
    state = State(Path(folder))
    record = Record(**json.loads((state.folder_of(machine_id) / _RECORD).read_bytes()))
    supervise(state, record, MachineLock(int(lock_fd)), socket.socket(fileno=int(owner_fd)))
