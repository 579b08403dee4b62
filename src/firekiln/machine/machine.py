"""One machine, as a library's user has it: a handle by which to stop, wait for, read or remove it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Literal, Self

from firekiln.errors import ConflictError, ContainerNotFoundError, MachineError
from firekiln.machine.network.ports import check_free
from firekiln.machine.supervision import control
from firekiln.machine.supervision.journal import note
from firekiln.machine.supervision.live import forget_live
from firekiln.machine.supervision.log import Line, read_log
from firekiln.machine.supervision.processes import kill_supervisor, wake_supervisor
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.supervision.state import RUNS, MachineLock, Record, State
from firekiln.machine.supervision.stream import Stream
from firekiln.machine.vmm.spec import MachineSpec, PublishedPort

_ANSWER_DEADLINE = 10.0


class Machine:
    """A machine of the store, running or not. Leaving its context ends it at once and removes it.

    Every method sees the machine as it is now, whoever else has to do with it. ContainerNotFoundError where it is gone.
    """

    def __init__(self, state: State, machine_id: str) -> None:
        self._state = state
        self.id = machine_id

    @classmethod
    def find(cls, state: State, word: str) -> Self:
        """The machine of that name, id or beginning of an id. ContainerNotFoundError."""
        return cls(state, state.get(word).id)

    @property
    def record(self) -> Record:
        return self._state.get(self.id)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def settings(self) -> Settings:
        return Settings.decode(self.record.settings)

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        """Where the machine's published ports answer, while it runs."""
        return self.settings.spec.ports

    def start(self) -> None:
        """Boot a machine that was created, or has ended; returns when its process has started. One that runs is let be.

        ConflictError where one of its ports is taken; the MachineError with which the start failed.
        """
        from firekiln.machine.supervision.supervise import detach  # noqa: PLC0415 - `exec` is to be quick

        prepared = self._prepared()
        if prepared is not None:
            detach(self._state, *prepared)

    def start_attached(self) -> Stream | None:
        """As `start`, but returns at once, with the session of its owner; None where it runs."""
        from firekiln.machine.supervision.supervise import launch  # noqa: PLC0415 - as above

        prepared = self._prepared()
        return launch(self._state, *prepared) if prepared is not None else None

    def restart(self, timeout: float | None = None, *, signal: int | None = None) -> None:
        """Stop the machine, as `stop` does, and boot it again."""
        if self.settings.auto_remove:
            raise ConflictError(
                f"{self.name} was started with --rm: it is removed when it ends, and cannot be restarted",
                hint="run it without --rm",
            )
        self.stop(timeout, signal=signal)
        self.start()
        self._note("restart")

    def rename(self, name: str) -> None:
        """Give it another name. ConflictError where that is taken, UsageError where it is none."""
        before = self.name
        self._state.rename(self.id, name)
        if (self._state.folder.parent / "networks").is_dir():
            from firekiln.machine.network.networks import Networks  # noqa: PLC0415 - `exec` is to be quick

            Networks(self._state.folder.parent).rename(self.id, before, name)
        self._note("rename")

    def exec(
        self,
        *argv: str,
        env: Sequence[str] = (),
        user: str | None = None,
        working_dir: str | None = None,
        stdin: bool = False,
        tty: tuple[int, int] | None = None,
    ) -> Stream:
        """Start another process in the machine; the stream of its input and output (see `dialogue`).

        `tty`: rows and columns of a terminal of its own. ConflictError where the machine does not run.
        """
        request = {"argv": [*argv], "env": [*env], "user": user, "cwd": working_dir, "stdin": stdin, "tty": tty}
        return self.stream("exec", **request)

    def attach(self) -> Stream:
        """The stream of the machine's own process from now on. ConflictError where the machine does not run."""
        return self.stream("attach")

    def stream(self, what: str, **fields: Any) -> Stream:
        """A connection of frames; see `control`. ConflictError where the machine does not run."""
        record = self.record
        if record.status == "paused":
            raise paused(record)
        stream = Stream.open(self._state.folder_of(self.id), {"do": what, **fields})
        if stream is None:
            raise not_running(record)
        return stream

    def figures(self, what: Literal["stats", "top"]) -> Mapping[str, Any]:
        """What the guest says of itself: see `clients`. ConflictError where the machine does not run."""
        record = self.record
        if record.status == "paused":
            raise paused(record)
        answer = control.ask(self._state.folder_of(self.id), {"do": what}, timeout=_ANSWER_DEADLINE)
        if answer is None:
            raise not_running(record)
        if "error" in answer:
            raise MachineError(f"{self.name}: {answer['error']}")
        return answer

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the machine; its exit status. MachineError after `timeout` seconds."""
        if self._state.is_alive(self.id):
            answer = control.ask(self._state.folder_of(self.id), {"do": "wait"}, timeout=timeout)
            if answer is not None and "exit_status" in answer:
                return int(answer["exit_status"])
            self._state.wait_until_ended(self.id)
        return self.record.exit_status

    def stop(self, timeout: float | None = None, *, signal: int | None = None) -> None:
        """End the machine by its stop signal, or that one, after `timeout` seconds (its own where None; < 0: for ever)
        by force.

        A machine that does not run is left as it is.
        """
        if not self._state.is_alive(self.id):
            return
        seconds = self.settings.stop_timeout if timeout is None else timeout
        self._end(seconds, signal)
        self._state.wait_until_ended(self.id)
        self._note("stop")

    def kill(self, number: int) -> None:
        """Send the machine's process a signal. ConflictError where the machine does not run."""
        record = self.record
        answer = None
        if record.status in RUNS:
            wake_supervisor(self._state.folder_of(self.id))
            request = {"do": "signal", "number": number}
            answer = control.ask(self._state.folder_of(self.id), request, timeout=_ANSWER_DEADLINE)
        if answer is None:
            raise not_running(record)
        if "error" in answer:
            raise MachineError(f"{record.name}: {answer['error']}")
        self._note("kill", signal=str(number))

    def pause(self) -> None:
        """Have the machine stand still, processors and all. ConflictError where it does, or does not run."""
        record = self._told("pause", "running")
        if record is not None:
            raise _conflict(record, "is already paused")

    def unpause(self) -> None:
        """Have a machine that was paused go on. ConflictError where it was not."""
        record = self._told("unpause", "paused")
        if record is not None:
            raise _conflict(record, "is not paused")

    def _told(self, what: str, status: str) -> Record | None:
        """Have the supervisor do something with a machine of that status; its record where it is of another."""
        record = self.record
        if record.status not in RUNS:
            raise not_running(record)
        if record.status != status:
            return record
        answer = control.ask(self._state.folder_of(self.id), {"do": what}, timeout=_ANSWER_DEADLINE)
        if answer is None:
            raise not_running(record)
        if "error" in answer:
            raise MachineError(f"{record.name}: {answer['error']}")
        self._note(what)
        return None

    def _end(self, seconds: float, signal: int | None = None) -> None:
        """Have the supervisor end the machine; one that does not answer is ended with it."""
        request = {"do": "stop", "timeout": seconds, **({"signal": signal} if signal else {})}
        folder = self._state.folder_of(self.id)
        wake_supervisor(folder)
        limit = None if seconds < 0 else seconds + _ANSWER_DEADLINE
        try:
            control.ask(folder, request, timeout=limit)
        except MachineError:
            kill_supervisor(folder)

    def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove the machine and all that is its own, with `volumes` also its volumes without a name.

        ConflictError where it runs and `force` is not given.
        """
        from firekiln.machine.supervision.supervise import discard  # noqa: PLC0415 - as above

        record = self.record
        if self._state.is_alive(self.id):
            if not force and record.status != "exited":
                raise ConflictError(
                    f'cannot remove container "/{record.name}": container is running',
                    hint=f"stop the container before removing or force remove: firekiln rm -f {record.name}",
                )
            if force:
                self._end(0)
            self._state.wait_until_ended(self.id)
        self._note("destroy")
        discard(self._state, self.id, volumes=volumes)

    def logs(self, *, tail: int | None = None, follow: bool = False) -> Iterator[Line]:
        """What the process wrote, of that which is there the last `tail` lines; with `follow` on to its end."""
        folder = self._state.folder_of(self.id)
        return read_log(folder, tail=tail, follow=(lambda: self._state.is_alive(self.id)) if follow else None)

    def _prepared(self) -> tuple[Record, MachineLock] | None:
        """The right to boot it, everything being ready; None where somebody else has that."""
        settings = self.settings
        lock = self._state.lock(self.id)
        if lock is None:
            return None
        with ExitStack() as undo:
            undo.callback(lock.release)
            check_free(self.ports)
            _check_parts(settings.spec)
            forget_live(self._state.folder_of(self.id))
            self._state.update(self.id, status="created", exit_status=0, error="", oom=False)
            record = self.record
            undo.pop_all()
        return record, lock

    def _note(self, action: str, **attributes: str) -> None:
        with suppress(ContainerNotFoundError):  # it was removed at its end
            record = self.record
            folder = self._state.folder
            note(folder, action, machine_id=self.id, name=record.name, image=record.image, **attributes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if any(record.id == self.id for record in self._state.list()):
            self.remove(force=True)


def _check_parts(spec: MachineSpec) -> None:
    """MachineError where something that the machine boots from is gone."""
    for path in (spec.kernel, spec.initramfs, *(drive.path for drive in spec.drives)):
        if not path.exists():
            raise MachineError(f"{path}: a part of the machine is gone", hint="run its image anew")


def not_running(record: Record) -> ConflictError:
    """Docker's words."""
    return _conflict(record, "is not running", hint="`firekiln ps -a` says how it ended")


def paused(record: Record) -> ConflictError:
    """Docker's words. Whoever stopped the VMM may not have been `firekiln pause`."""
    return _conflict(record, "is paused, unpause the container first", hint=f"firekiln unpause {record.name}")


def _conflict(record: Record, words: str, *, hint: str | None = None) -> ConflictError:
    error = ConflictError(f"container {record.id[:12]} {words}", hint=hint)
    error.exit_status = 1
    return error
