"""The life of one machine: one loop that owns its VMM, agent, log and control socket, and sees its end.

The loop waits nowhere but in its selector, whose keys carry callbacks as data. It ends when the VMM has ended, and the
VMM ends with it.
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from firekiln.errors import MachineError
from firekiln.machine import control
from firekiln.machine.agent import Agent, Closed, Event, Exited, Failed, Hello, Log, Output, Pong, Started
from firekiln.machine.ending import End, Tail, failure, judge
from firekiln.machine.log import LogWriter, Stream
from firekiln.machine.settings import Settings
from firekiln.machine.vmm import Guest, Vmm

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What stops a machine in order when its supervisor receives it; a second one ends it at once."""

_BOOT_DEADLINE = 60.0
_POWER_OFF_DEADLINE = 10.0
_GRACE = 3.0
"""Seconds beyond a stop's time-out that the guest has to do its part, before the VMM is killed."""

_CONSOLE_LIMIT = 1 << 20
_LONGEST_MS = (1 << 31) - 1
_READ = 1 << 16


def ignore(*_: object) -> None:
    """Does nothing, where something may be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What happens beside the log: `output` gets what the process writes, `started` the VMM's process id, once."""

    output: Callable[[Stream, bytes], None] = ignore
    started: Callable[[int], None] = ignore


class Supervisor:
    """Runs one machine, once, in the main thread. `folder` takes its log, its console's text and its control socket."""

    def __init__(self, settings: Settings, vmm: Vmm, folder: Path, hooks: Hooks) -> None:
        self._settings = settings
        self._vmm = vmm
        self._folder = folder
        self._hooks = hooks
        self._selector = selectors.DefaultSelector()
        self._console = Tail()
        self._complaints = Tail()
        self._started = False
        self._result: Exited | Failed | None = None
        self._breach = ""
        self._stopping = False
        self._signal = 0
        self._over = False
        self._deadline = math.inf

    def run(self, finished: Callable[[End], None]) -> End:
        """From launch to end. `finished` is called before those that wait at the control socket are told.

        Raises a FirekilnError where the process never started; its `exit_status` is Docker's.
        """
        with ExitStack() as resources:
            resources.enter_context(self._selector)
            self._log = LogWriter(self._folder)
            resources.callback(self._close_log)
            self._console_file = resources.enter_context((self._folder / "console.log").open("wb", buffering=0))
            server = resources.enter_context(control.Server(self._folder, self._selector, self._on_request))
            signals = resources.enter_context(_signals())
            self._watch(signals, lambda: self._on_signal(signals))
            self._launch(resources)
            while not self._over:
                self._turn()
            self._close_log()  # before anybody is told of the end: its last line may lack a newline
            end = self._conclude()
            finished(end)
            server.finish({"exit_status": end.status})
            return end

    def _launch(self, resources: ExitStack) -> None:
        self._guest: Guest = resources.enter_context(self._vmm.launch(self._settings.spec))
        self._agent = resources.enter_context(Agent(self._guest.channel))
        pidfd = os.pidfd_open(self._guest.process.pid)
        resources.callback(os.close, pidfd)
        self._watch_pipe(self._guest.console, self._on_console)
        self._watch_pipe(self._guest.complaints, self._complaints.add)
        self._watch(self._agent, self._receive)
        self._watch(pidfd, self._on_vmm_end)
        self._deadline = time.monotonic() + _BOOT_DEADLINE

    def _turn(self) -> None:
        if self._is_watched(self._agent):
            writing = selectors.EVENT_WRITE if self._agent.wants_write else 0
            self._selector.modify(self._agent, selectors.EVENT_READ | writing, self._receive)
        left = self._deadline - time.monotonic()
        if left <= 0:
            self._on_deadline()
            return
        for key, ready in self._selector.select(None if math.isinf(left) else left):
            if ready & selectors.EVENT_WRITE:
                self._agent.flush()
            if ready & selectors.EVENT_READ and self._is_watched(key.fileobj):
                key.data()

    def _conclude(self) -> End:
        returncode = self._guest.process.wait()
        if isinstance(self._result, Failed) or not self._started:
            raise failure(
                self._result if isinstance(self._result, Failed) else None,
                returncode=returncode,
                stopping=self._stopping,
                number=self._signal,
                breach=self._breach,
                complaints=self._complaints,
                console=self._console,
            )
        return judge(self._result, returncode=returncode, stopping=self._stopping, breach=self._breach)

    def _watch(self, what: Any, callback: Callable[[], object]) -> None:
        self._selector.register(what, selectors.EVENT_READ, callback)

    def _watch_pipe(self, pipe: IO[bytes], take: Callable[[bytes], None]) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._watch(pipe, lambda: self._read_pipe(pipe, take))

    def _is_watched(self, what: Any) -> bool:
        return what in self._selector.get_map()

    # --- the guest --------------------------------------------------------------------------------------------------

    def _receive(self) -> bool:
        """Whether there was something."""
        try:
            events = self._agent.receive()
            for event in events:
                self._on_event(event)
        except MachineError as error:
            self._breach = str(error)
            self._selector.unregister(self._agent)
            self._guest.process.kill()
            return False
        return bool(events)

    def _on_event(self, event: Event) -> None:
        match event:
            case Output(fd=fd, data=data):
                if data:
                    self._write("stdout" if fd == 1 else "stderr", data)
            case Started():
                self._started = True
                if not self._stopping:
                    self._deadline = math.inf
                self._hooks.started(self._guest.process.pid)
            case Exited() | Failed():
                self._result = event
                self._deadline = time.monotonic() + _POWER_OFF_DEADLINE
            case Log(message=message):
                self._on_console(f"firekiln: {message}\n".encode())
            case Closed():
                self._selector.unregister(self._agent)
            case Hello() | Pong():
                pass

    def _write(self, stream: Stream, data: bytes) -> None:
        with suppress(OSError):  # a full disk must not end the service
            self._log.write(stream, data)
        self._hooks.output(stream, data)

    def _close_log(self) -> None:
        with suppress(OSError):
            self._log.close()

    def _on_console(self, data: bytes) -> None:
        self._console.add(data)
        if self._console_file.tell() < _CONSOLE_LIMIT:
            with suppress(OSError):
                self._console_file.write(data)

    def _read_pipe(self, pipe: IO[bytes], take: Callable[[bytes], None]) -> None:
        with suppress(BlockingIOError):
            data = os.read(pipe.fileno(), _READ)
            if data:
                take(data)
            else:
                self._selector.unregister(pipe)

    def _on_vmm_end(self) -> None:
        """Take what is left in its channel and pipes, and leave the loop."""
        while self._is_watched(self._agent) and self._receive():
            pass
        for pipe, take in ((self._guest.console, self._on_console), (self._guest.complaints, self._complaints.add)):
            if self._is_watched(pipe):
                self._read_pipe(pipe, take)
        self._over = True

    # --- stopping ---------------------------------------------------------------------------------------------------

    def _on_request(self, request: control.Message) -> control.Message | None:
        match request:
            case {"do": "wait"}:
                return None
            case {"do": "stop", "timeout": int() | float() as timeout}:
                self._stop(self._settings.stop_signal, timeout)
                return None
            case {"do": "signal", "number": int() as number} if self._started:
                self._agent.signal(number)
                return {}
            case {"do": "signal"}:
                return {"error": "the machine is still booting"}
            case _:
                return {"error": "no such request"}

    def _on_signal(self, source: socket.socket) -> None:
        for number in source.recv(_READ):
            self._signal = self._signal or number
            self._stop(self._settings.stop_signal, 0 if self._stopping else self._settings.stop_timeout)

    def _stop(self, number: int, timeout: float) -> None:
        """Have the process receive `number`, and the machine end `timeout` seconds later at the latest; < 0: never."""
        self._stopping = True
        if timeout == 0 or not self._started:
            self._guest.process.kill()
            return
        self._agent.stop(number, _LONGEST_MS if timeout < 0 else min(round(timeout * 1000), _LONGEST_MS))
        if timeout > 0:
            self._deadline = min(self._deadline, time.monotonic() + timeout + _GRACE)

    def _on_deadline(self) -> None:
        self._deadline = math.inf
        if not self._started and not self._stopping:
            self._breach = f"the guest did not start its process within {_BOOT_DEADLINE:.0f} s"
        self._guest.process.kill()


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket from which each of SIGNALS that arrives is read as a byte, in place of what it would do."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        previous = {number: signal.signal(number, ignore) for number in SIGNALS}
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in previous.items():
                signal.signal(number, handler)
