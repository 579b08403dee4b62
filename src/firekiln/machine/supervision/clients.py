"""All who talk to the supervisor of one machine, through all boots of it: at its control socket, and its owner.

The owner is whoever started the machine, and is connected before it boots, so that it misses no byte.
"""

from __future__ import annotations

import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from firekiln.errors import MachineError
from firekiln.machine.guest.agent import Agent
from firekiln.machine.guest.protocol import MAIN, PROCESSES_LIMIT, FrameType, control
from firekiln.machine.guest.reports import Exited, Failed, Frozen, Output, Started, Stat, Stats, Top
from firekiln.machine.supervision.control import Later, Message, Server, Taken
from firekiln.machine.supervision.session import Session
from firekiln.machine.supervision.standstill import Standstill, Still

_FAREWELL = 10.0
"""Seconds that a client other than the owner has to take the last output."""
_TOP_LIMIT = 4096
_LAST_SIGNAL = 64
_NOT_STARTED = 126
_PAUSED = "the machine is paused"

Journal: TypeAlias = Callable[[str, Mapping[str, str]], None]


class Boot(Still, Protocol):
    """What runs at present: one boot of the machine."""

    @property
    def is_started(self) -> bool:
        """Whether the guest's process has started."""
        ...

    @property
    def is_paused(self) -> bool:
        """Whether the VMM is stopped, by `pause` or by somebody's SIGSTOP: its guest answers nothing."""
        ...

    def signal(self, number: int, *, ends: bool) -> None:
        """Deliver a signal to the process; `ends`: no restart policy starts it again."""
        ...

    def pause(self) -> None:
        """Have the machine stand still."""
        ...

    def resume(self) -> None:
        """Have it go on."""
        ...

    def stop(self, number: int, timeout: float) -> None:
        """Have the process receive a signal, and the machine end so many seconds later; 0: at once, < 0: never."""
        ...


class Clients:
    """The clients of one machine. `selector` is the supervisor's; its keys carry callbacks of the ready events."""

    def __init__(
        self,
        folder: Path,
        selector: selectors.BaseSelector,
        *,
        stop_signal: int,
        stop_timeout: float,
        stdin: bool,
        closes_stdin: bool,
        journal: Journal,
    ) -> None:
        self.boot: Boot | None = None
        self.is_stopping = False
        self.signal_received = 0
        self._selector = selector
        self._stop_signal = stop_signal
        self._stop_timeout = stop_timeout
        self._stdin = stdin
        self._closes_stdin = closes_stdin
        self._journal = journal
        self._standstill: Standstill | None = None
        self._sessions: dict[int, Session] = {}
        self._attached: list[Session] = []
        self._asked: dict[int, str] = {}
        self._top: list[dict[str, Any]] = []
        self._server = Server(folder, selector, self._on_request)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in [*self._attached, *self._sessions.values()]:
            session.drop()
        self._server.__exit__(kind, error, trace)

    @property
    def agent(self) -> Agent | None:
        """The guest's end, once its process has started."""
        return self.boot.agent if self.boot is not None and self.boot.is_started else None

    @property
    def _is_paused(self) -> bool:
        return self.boot is not None and self.boot.is_paused

    @property
    def is_congested(self) -> bool:
        """Whether a client of the main process lags so far behind that its output has to wait."""
        return any(session.is_congested for session in self._attached)

    def adopt(self, owner: socket.socket) -> None:
        """The owner's connection. The machine stops when it breaks."""
        self._attach(owner, owner=True, closes_stdin=self._closes_stdin)

    def received(self, number: int) -> None:
        """A signal for the machine as a whole: it stops in order; at the second it ends at once."""
        self.signal_received = self.signal_received or number
        self.stop(0 if self.is_stopping else self._stop_timeout)

    def stop(self, timeout: float, number: int = 0) -> None:
        """End the machine by its stop signal, or that one; for good, whatever its restart policy says."""
        self.is_stopping = True
        if self._standstill is not None:
            self._standstill.interrupt()
        if self.boot is not None:
            self.boot.stop(number or self._stop_signal, timeout)

    def signal(self, number: int) -> None:
        """Deliver a signal to the main process. Those that stop or kill it end the machine for good, as in Docker."""
        if self.boot is not None and self.boot.is_started:
            if number == signal.SIGKILL:
                self.is_stopping = True
                if self._standstill is not None:
                    self._standstill.interrupt()
            self.boot.signal(number, ends=number in (signal.SIGKILL, self._stop_signal))

    # --- from the guest ---------------------------------------------------------------------------------------------

    def output(self, kind: FrameType, data: bytes) -> None:
        """Hand the main process's output to all who are attached."""
        for session in list(self._attached):
            session.send(kind, data)

    def started(self) -> None:
        """The main process has started, perhaps anew."""
        for session in list(self._attached):
            session.tell(FrameType.STARTED)

    def pump(self) -> None:
        """The guest may have room for more input."""
        for session in [*self._attached, *self._sessions.values()]:
            session.pump()

    def report(self, event: Output | Started | Exited | Failed | Stat) -> None:
        """Tell the client of another process than the main one."""
        session = self._sessions.get(event.process)
        if session is None:
            return
        match event:
            case Output(fd=fd, data=data):
                session.send(FrameType.STDOUT if fd == 1 else FrameType.STDERR, data)
            case Started():
                session.tell(FrameType.STARTED)
            case Exited():
                session.tell(FrameType.EXITED, code=event.status, oom=event.oom)
                self._end(session, event.status)
            case Failed(message=message, status=said):
                # 125 would be the machine's own failure, or the command line's: Docker's `exec` keeps them apart.
                status = max(said, _NOT_STARTED) if self._asked.get(event.process) == "exec" else said
                session.tell(FrameType.FAILED, message=message, hint=None, status=status, stage=event.stage)
                self._end(session, status)
            case Stat():
                names = "name mode size mtime_ns target".split()
                session.tell(FrameType.STAT, **{name: getattr(event, name) for name in names})
                if self._asked.get(event.process) == "stat":
                    if self.agent is not None:
                        self.agent.release(event.process)
                    self._end(session, 0)

    def frozen(self, event: Frozen) -> None:
        """The guest stands still, or says why not."""
        if self._standstill is not None:
            self._standstill.on_frozen(event)

    def figures(self, event: Stats | Top) -> None:
        """Answer who asked for them."""
        if isinstance(event, Top):
            self._gather(event)
            return
        counters = {
            name: [{"name": c.name, "into": c.into, "out": c.out} for c in getattr(event, name)]
            for name in ("network", "block")
        }
        figures = {
            "memory": dict(event.memory),
            "cpu": dict(event.cpu),
            "pids": event.pids,
            "listening": list(event.listening),
            **counters,
        }
        self._server.answer("stats", figures)

    def _gather(self, event: Top) -> None:
        """Gather the processes, and answer when the last have come."""
        names = "pid ppid uid user start_ms cpu_ms tty rss".split()
        for process in event.processes[: max(0, _TOP_LIMIT - len(self._top))]:
            item: dict[str, Any] = {name: getattr(process, name) for name in names}
            self._top.append({**item, "argv": list(process.argv)})
        if not event.more:
            self._server.answer("top", {"processes": self._top})
            self._top = []

    # --- the ends ---------------------------------------------------------------------------------------------------

    def boot_ended(self) -> None:
        """What ran in the guest has gone with it, all but the hope of the main process."""
        self.boot = None
        if self._standstill is not None:
            self._standstill.drop()
        for session in list(self._sessions.values()):
            session.tell(FrameType.FAILED, message="the machine has ended", hint=None, status=137, stage="process")
            self._end(session, 137)
        for what in ("stats", "top"):
            self._server.answer(what, {"error": "the machine has ended"})

    def finish(self, exit_status: int, kind: FrameType, **fields: Any) -> None:
        """Tell all of the machine's end, and wait until they have taken the last output: the owner for ever."""
        self._server.answer("end", {"exit_status": exit_status})
        for session in list(self._attached):
            session.tell(kind, **fields)
            session.finish()
        deadline = time.monotonic() + _FAREWELL
        while waiting := [session for session in self._attached if session.is_pending]:
            left = deadline - time.monotonic()
            if left <= 0 and not any(session.owner for session in waiting):
                return
            for key, ready in self._selector.select(max(0.0, left) if left > 0 else None):
                key.data(ready)

    # --- from clients -----------------------------------------------------------------------------------------------

    def _on_request(self, request: Message, client: socket.socket, rest: bytes) -> Message | Taken | Later:
        match request:
            case {"do": "attach"}:
                self._attach(client, closes_stdin=False, rest=rest)
                return Taken()
            case {"do": "exec" | "read" | "write" | "stat"}:
                self._open(request, client, rest)
                return Taken()
            case {"do": "snapshot", "folder": str() as folder}:
                return self._stand_still(client, Path(folder))
            case {"do": "stop", "timeout": int() | float() as timeout}:
                number = request.get("signal")
                self.stop(timeout, number if type(number) is int and 0 < number <= _LAST_SIGNAL else 0)
                return Later("end")
            case {"do": "wait"}:
                return Later("end")
        return self._on_question(request)

    def _on_question(self, request: Message) -> Message | Later:
        agent = self.agent
        match request:
            case {"do": "signal" | "stats" | "top" | "pause" | "unpause"} if agent is None:
                return {"error": "the machine is still booting"}
            case {"do": "signal", "number": int() as number}:
                self.signal(number)
                return {}
            case {"do": "pause" | "unpause" as what} if self.boot is not None:
                (self.boot.pause if what == "pause" else self.boot.resume)()
                return {}
            case {"do": "stats" | "top"} if self._is_paused:
                return {"error": _PAUSED}
            case {"do": "stats" | "top" as what} if agent is not None:
                (agent.stats if what == "stats" else agent.top)()
                return Later(what)
        return {"error": "no such request"}

    def _stand_still(self, client: socket.socket, folder: Path) -> Message | Taken:
        if self.boot is None or not self.boot.is_started or self.is_stopping:
            return {"error": "the machine is booting or ending"}
        if self._standstill is not None:
            return {"error": "somebody else is making a snapshot of the machine"}
        if self._is_paused:
            return {"error": _PAUSED}
        self._standstill = Standstill(client, folder, self.boot, self._selector, self._goes_on)
        return Taken()

    def _goes_on(self) -> None:
        self._standstill = None

    def _attach(self, client: socket.socket, *, closes_stdin: bool, owner: bool = False, rest: bytes = b"") -> None:
        session = Session(
            client,
            self._selector,
            self,
            owner=owner,
            stdin=self._stdin,
            closes_stdin=closes_stdin,
            ended=self._detached,
        )
        self._attached.append(session)
        if not owner:
            self._journal("attach", {})
        if self.agent is not None:
            session.tell(FrameType.STARTED)
        if rest:
            session.feed(rest)

    def _open(self, request: Message, client: socket.socket, rest: bytes) -> None:
        try:
            number = self._number(request)
        except (MachineError, TypeError, ValueError, KeyError) as error:
            message = error.message if isinstance(error, MachineError) else "no such request"
            with suppress(OSError):
                client.send(control(FrameType.FAILED, message=message, hint=None, status=125).encode())
            client.close()
            return
        takes = request["do"] == "write" or bool(request.get("stdin"))
        session = Session(
            client,
            self._selector,
            self,
            process=number,
            stdin=takes,
            closes_stdin=takes,
            ended=lambda _: None,  # its process goes on, and is listened to, until it ends
        )
        self._sessions[number] = session
        self._asked[number] = request["do"]
        if request["do"] == "exec":
            self._journal("exec_start", {"execID": str(number), "command": " ".join(map(str, request["argv"]))})
        if rest:
            session.feed(rest)

    def _number(self, request: Message) -> int:
        """Have the guest start what is asked for."""
        agent = self.agent
        if agent is None:
            raise MachineError("the machine is still booting")
        if self._is_paused:
            raise MachineError(_PAUSED)
        if len(self._sessions) >= PROCESSES_LIMIT:
            raise MachineError(f"{PROCESSES_LIMIT} processes are started in the machine already")
        match request["do"]:
            case "exec":
                tty = request["tty"]
                return agent.exec(
                    list(request["argv"]),
                    env=list(request["env"]),
                    user=request["user"],
                    cwd=request["cwd"],
                    tty=(int(tty[0]), int(tty[1])) if tty else None,
                    stdin=bool(request["stdin"]),
                )
            case "read":
                return agent.read(str(request["path"]), follow=bool(request["follow"]))
            case "write":
                return agent.write(str(request["path"]), keep_owner=bool(request["keep_owner"]))
            case _:
                return agent.stat(str(request["path"]), follow=bool(request["follow"]))

    def _end(self, session: Session, status: int) -> None:
        del self._sessions[session.process]
        if self._asked.pop(session.process) == "exec":
            self._journal("exec_die", {"execID": str(session.process), "exitCode": str(status)})
        session.finish()

    def _detached(self, session: Session) -> None:
        self._attached.remove(session)
        if session.lost and session.owner:
            self.stop(self._stop_timeout)
        if session.process == MAIN and not session.owner:
            self._journal("detach", {})
