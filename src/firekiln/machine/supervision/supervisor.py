"""One boot of a machine: a loop that owns its VMM, its agent and its log, and sees its end.

The loop waits nowhere but in its selector, whose keys carry callbacks of the ready events as data. It ends when the VMM
has ended, and the VMM ends with it.
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from firekiln.errors import MachineError
from firekiln.machine.guest.agent import Agent
from firekiln.machine.guest.protocol import MAIN, FrameType
from firekiln.machine.guest.reports import (
    Closed,
    Event,
    Exited,
    Failed,
    Frozen,
    Health,
    Hello,
    Log,
    Output,
    Pong,
    Started,
    Stat,
    Stats,
    Thawed,
    Top,
    joined,
)
from firekiln.machine.snapshot.origin import Origin
from firekiln.machine.supervision.clients import Clients
from firekiln.machine.supervision.ending import End, Tail, failure, judge
from firekiln.machine.supervision.log import LogWriter, Stream
from firekiln.machine.supervision.processes import is_stopped, stop_child
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.supervision.wakeup import ignore
from firekiln.machine.vmm.backend import Guest, Vmm
from firekiln.values import dataclass

_BOOT_DEADLINE = 60.0
_POWER_OFF_DEADLINE = 10.0
_GRACE = 3.0
"""Seconds beyond a stop's time-out that the guest has to do its part, before the VMM is killed."""

_CONSOLE_LIMIT = 1 << 20
_LONGEST_MS = (1 << 31) - 1
_READ = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What happens beside the log. `started` gets the VMM's process id and how often the guest restarted its process.

    `restarting` gets each end of the process that the guest will not let be its last. `silent`: no result of the health
    check came in time.
    """

    started: Callable[[int, int], None] = ignore
    restarting: Callable[[Exited], None] = ignore
    health: Callable[[Health], None] = ignore
    silent: Callable[[], None] = ignore


class Supervisor:
    """Runs one machine, once. `folder` takes its log and its console's text; `selector` is the clients' too."""

    def __init__(
        self,
        settings: Settings,
        vmm: Vmm,
        folder: Path,
        *,
        selector: selectors.BaseSelector,
        clients: Clients,
        hooks: Hooks,
        origin: Origin | None = None,
    ) -> None:
        self._settings = settings
        self._vmm = vmm
        self._folder = folder
        self._hooks = hooks
        self._origin = origin
        self._selector = selector
        self._clients = clients
        self._console = Tail()
        self._complaints = Tail()
        self._result: Exited | Failed | None = None
        self._breach = ""
        self._over = False
        self._deadline = math.inf
        self._silence = math.inf
        self.is_started = False

    @property
    def agent(self) -> Agent:
        return self._agent

    def run(self) -> End:
        """From launch to end. Raises a FirekilnError where the process never started; its status is Docker's."""
        with ExitStack() as resources:
            config = self._settings.log
            self._log = LogWriter(self._folder, config) if config.is_kept else None
            resources.callback(self._close_log)
            self._console_file = resources.enter_context((self._folder / "console.log").open("wb", buffering=0))
            self._launch(resources)
            self._clients.boot = self
            resources.callback(self._clients.boot_ended)
            if self._clients.is_stopping:
                self._guest.process.kill()
            while not self._over:
                self._turn()
            return self._conclude()

    def stop(self, number: int, timeout: float) -> None:
        """Have the process receive `number`, and the machine end `timeout` seconds later at the latest; < 0: never."""
        if timeout == 0 or not self.is_started:
            self._guest.process.kill()
            return
        self.resume()
        self._agent.stop(number, _LONGEST_MS if timeout < 0 else min(round(timeout * 1000), _LONGEST_MS))
        if timeout > 0:
            self._deadline = min(self._deadline, time.monotonic() + timeout + _GRACE)

    def signal(self, number: int, *, ends: bool) -> None:
        """Deliver a signal to the process; `ends`: for good. A guest that hangs when killed is given a few seconds."""
        self.resume()
        self._agent.signal(number, ends=ends)
        if number == signal.SIGKILL:
            self._deadline = min(self._deadline, time.monotonic() + _GRACE)

    @property
    def is_paused(self) -> bool:
        return is_stopped(self._guest.process.pid)

    def pause(self) -> None:
        """Stop the VMM, and with it all of the guest."""
        stop_child(self._guest.process.pid)

    def resume(self) -> None:
        """Have the VMM go on, whoever has stopped it."""
        self._guest.process.send_signal(signal.SIGCONT)

    def _launch(self, resources: ExitStack) -> None:
        self._guest: Guest = resources.enter_context(self._launched())
        if self._guest.is_listening:
            self._await_agent(resources, self._guest.channel)
        else:
            self._agent = resources.enter_context(Agent(self._guest.channel))
            self._watch(resources, self._agent, self._on_agent)
        pidfd = os.pidfd_open(self._guest.process.pid)
        resources.callback(os.close, pidfd)
        for pipe, take in self._pipes():
            os.set_blocking(pipe.fileno(), False)
            self._watch(resources, pipe, self._reading(pipe, take))
        self._watch(resources, pidfd, lambda _: self._on_vmm_end())
        for carrier in self._guest.links.carriers if self._guest.links else ():
            self._watch_carrier(resources, carrier)
        self._deadline = time.monotonic() + _BOOT_DEADLINE
        if self._origin is not None:
            self._agent.thaw(self._origin.clone)  # is there to be read before the guest's first instruction
            self._guest.resume()

    def _launched(self) -> Guest:
        spec = self._settings.spec
        return self._vmm.launch(spec) if self._origin is None else self._vmm.restore(spec, self._origin.saved)

    def save(self, state: Path) -> int:
        """Stop the processors and write the devices' state; the memory's descriptor. FirekilnError."""
        return self._guest.save(state)

    def go_on(self) -> None:
        """Let the processors go on. FirekilnError."""
        self._guest.resume()

    def _watch_carrier(self, resources: ExitStack, carrier: subprocess.Popen[bytes]) -> None:
        """A machine that is cut off from its network serves nobody: that is its end, for its restart policy to mend."""
        pidfd = os.pidfd_open(carrier.pid)
        resources.callback(os.close, pidfd)

        def on_end(_: int) -> None:
            self._unwatch(pidfd)
            if carrier.wait() != 0:  # else it has seen the VMM's end
                self._breach = "the process that carries the machine's frames was killed"
                self._guest.process.kill()

        self._watch(resources, pidfd, on_end)

    def _await_agent(self, resources: ExitStack, listener: socket.socket) -> None:
        """The agent is the guest's that connects; until then it is one whose guest is never heard of."""
        nobody, other = socket.socketpair()
        resources.callback(other.close)
        self._agent = resources.enter_context(Agent(nobody))

        def on_connection(_: int) -> None:
            with suppress(BlockingIOError):
                stream, _address = listener.accept()
                self._unwatch(listener)
                self._unwatch(self._agent)
                self._agent = resources.enter_context(Agent(stream))

        self._watch(resources, listener, on_connection)

    def _reading(self, pipe: IO[bytes], take: Callable[[bytes], None]) -> Callable[[int], None]:
        return lambda _: self._read_pipe(pipe, take)

    def _pipes(self) -> list[tuple[IO[bytes], Callable[[bytes], None]]]:
        return [(self._guest.console, self._on_console), (self._guest.complaints, self._complaints.add)]

    def _turn(self) -> None:
        self._watch_agent()
        left = min(self._deadline, self._silence) - time.monotonic()
        if left <= 0:
            self._on_deadline()
            return
        for key, ready in self._selector.select(None if math.isinf(left) else left):
            if self._is_watched(key.fileobj):
                self._take(key.data, ready)

    def _take(self, callback: Callable[[int], object], ready: int) -> None:
        try:
            callback(ready)
        except MachineError as error:  # the guest does not read, or breaks the protocol
            self._breach = str(error)
            self._unwatch(self._agent)
            self._guest.process.kill()

    def _watch_agent(self) -> None:
        """Read the channel unless a client is congested, and write to it while something waits."""
        if self._agent.is_closed or self._breach:
            return
        reading = 0 if self._clients.is_congested else selectors.EVENT_READ
        wanted = reading | (selectors.EVENT_WRITE if self._agent.wants_write else 0)
        watched = self._is_watched(self._agent)
        if wanted and watched:
            self._selector.modify(self._agent, wanted, self._on_agent)
        elif wanted:
            self._selector.register(self._agent, wanted, self._on_agent)
        elif watched:
            self._selector.unregister(self._agent)

    def _conclude(self) -> End:
        returncode = self._guest.process.wait()
        stopping = self._clients.is_stopping
        if isinstance(self._result, Failed) or not self.is_started:
            raise failure(
                self._result if isinstance(self._result, Failed) else None,
                returncode=returncode,
                stopping=stopping,
                number=self._clients.signal_received,
                breach=self._breach,
                complaints=self._complaints,
                console=self._console,
            )
        return judge(self._result, returncode=returncode, stopping=stopping, breach=self._breach)

    def _watch(self, resources: ExitStack, what: Any, callback: Callable[[int], None]) -> None:
        self._selector.register(what, selectors.EVENT_READ, callback)
        resources.callback(self._unwatch, what)

    def _unwatch(self, what: Any) -> None:
        if self._is_watched(what):
            self._selector.unregister(what)

    def _is_watched(self, what: Any) -> bool:
        return what in self._selector.get_map()

    # --- the guest --------------------------------------------------------------------------------------------------

    def _on_agent(self, ready: int) -> None:
        if ready & selectors.EVENT_WRITE:
            self._agent.flush()
        if ready & selectors.EVENT_READ:
            self._receive()

    def _receive(self) -> bool:
        """Whether there was something."""
        events = self._agent.receive()
        for event in joined(events):
            self._on_event(event)
        self._clients.pump()
        return bool(events)

    def _receive_all(self, _: int) -> None:
        while not self._breach and self._receive():
            pass

    def _on_event(self, event: Event) -> None:
        match event:
            case Output() | Started() | Exited() | Failed() | Stat() if event.process != MAIN:
                self._clients.report(event)
            case Output(fd=fd, data=data):
                if data:
                    self._write("stdout" if fd == 1 else "stderr", data)
            case Started() | Exited() | Failed():
                self._on_news(event)
            case Health() | Stats() | Top() | Frozen() | Thawed():
                self._on_report(event)
            case Log(message=message):
                self._on_console(f"firekiln: {message}\n".encode())
            case Closed():
                self._unwatch(self._agent)
            case Hello() | Pong() | Stat():
                pass

    def _on_report(self, event: Health | Stats | Top | Frozen | Thawed) -> None:
        match event:
            case Health():
                self._hooks.health(event)
                self._expect_health()
            case Stats() | Top():
                self._clients.figures(event)
            case Frozen():
                self._clients.frozen(event)
            case Thawed():
                self._on_thaw()

    def _on_thaw(self) -> None:
        """A clone's process goes on: it has started. Another's has long since.

        What THAW said of the time is older than the guest's first instructions, and the clock of one that stood still
        did so too.
        """
        self._agent.set_clock()
        if self._origin is not None and not self.is_started:
            self.is_started = True
            if not self._clients.is_stopping:
                self._deadline = math.inf
            self._expect_health()
            self._hooks.started(self._guest.process.pid, 0)

    def _on_news(self, event: Started | Exited | Failed) -> None:
        """Of the main process."""
        match event:
            case Started(restarts=restarts):
                self.is_started = True
                if not self._clients.is_stopping:
                    self._deadline = math.inf
                self._expect_health()
                self._hooks.started(self._guest.process.pid, restarts)
            case Exited(again_ms=int()):
                self._silence = math.inf
                self._hooks.restarting(event)
            case Exited() | Failed():
                self._result = event
                self._silence = math.inf
                self._deadline = time.monotonic() + _POWER_OFF_DEADLINE

    def _write(self, stream: Stream, data: bytes) -> None:
        if self._log is not None:
            with suppress(OSError):  # a full disk must not end the service
                self._log.write(stream, data)
        self._clients.output(FrameType.STDOUT if stream == "stdout" else FrameType.STDERR, data)

    def _close_log(self) -> None:
        if self._log is not None:
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
        self._take(self._receive_all, 0)
        for pipe, take in self._pipes():
            if self._is_watched(pipe):
                self._read_pipe(pipe, take)
        self._over = True

    def _expect_health(self) -> None:
        """From here on the next result may take its time, and no longer."""
        seconds = self._settings.health_limit[0]
        self._silence = time.monotonic() + seconds if seconds else math.inf

    def _on_deadline(self) -> None:
        if time.monotonic() < self._deadline:
            self._expect_health()
            self._hooks.silent()
            return
        self._deadline = math.inf
        if not self.is_started and not self._clients.is_stopping:
            self._breach = f"the guest did not start its process within {_BOOT_DEADLINE:.0f} s"
        self._guest.process.kill()
