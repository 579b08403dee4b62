"""One machine, as a library's user has it: a handle by which to stop, wait for, read or remove it."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from firekiln.errors import ConflictError, MachineError
from firekiln.machine import control
from firekiln.machine.log import Line, read_log
from firekiln.machine.settings import Settings
from firekiln.machine.spec import PublishedPort
from firekiln.machine.state import Record, State
from firekiln.machine.supervise import discard

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
        network = self.settings.spec.network
        return network.ports if network else ()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the machine; its exit status. MachineError after `timeout` seconds."""
        if self._state.is_alive(self.id):
            answer = control.ask(self._state.folder_of(self.id), {"do": "wait"}, timeout=timeout)
            if answer is not None and "exit_status" in answer:
                return int(answer["exit_status"])
            self._state.wait_until_ended(self.id)
        return self.record.exit_status

    def stop(self, timeout: float | None = None) -> None:
        """End the machine by its stop signal, after `timeout` seconds (its own where None; < 0: for ever) by force.

        A machine that does not run is left as it is.
        """
        if not self._state.is_alive(self.id):
            return
        seconds = self.settings.stop_timeout if timeout is None else timeout
        control.ask(self._state.folder_of(self.id), {"do": "stop", "timeout": seconds})
        self._state.wait_until_ended(self.id)

    def kill(self, number: int) -> None:
        """Send the machine's process a signal. ConflictError where the machine does not run."""
        record = self.record
        answer = None
        if record.status == "running":
            request = {"do": "signal", "number": number}
            answer = control.ask(self._state.folder_of(self.id), request, timeout=_ANSWER_DEADLINE)
        if answer is None:
            raise not_running(record)
        if "error" in answer:
            raise MachineError(f"{record.name}: {answer['error']}")

    def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove the machine and all that is its own, with `volumes` also its volumes without a name.

        ConflictError where it runs and `force` is not given.
        """
        record = self.record
        if self._state.is_alive(self.id):
            if not force and record.status != "exited":
                raise ConflictError(
                    f'cannot remove container "/{record.name}": container is running',
                    hint=f"stop the container before removing or force remove: firekiln rm -f {record.name}",
                )
            if force:
                control.ask(self._state.folder_of(self.id), {"do": "stop", "timeout": 0}, timeout=_ANSWER_DEADLINE)
            self._state.wait_until_ended(self.id)
        discard(self._state, self.id, volumes=volumes)

    def logs(self, *, tail: int | None = None, follow: bool = False) -> Iterator[Line]:
        """What the process wrote, of that which is there the last `tail` lines; with `follow` on to its end."""
        folder = self._state.folder_of(self.id)
        return read_log(folder, tail=tail, follow=(lambda: self._state.is_alive(self.id)) if follow else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if any(record.id == self.id for record in self._state.list()):
            self.remove(force=True)


def not_running(record: Record) -> ConflictError:
    """Docker's words."""
    error = ConflictError(f"container {record.id[:12]} is not running", hint="`firekiln ps -a` says how it ended")
    error.exit_status = 1
    return error
