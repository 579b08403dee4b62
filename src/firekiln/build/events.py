"""Progress events: what a build says while it runs. Whoever subscribes gets each one, in order, one at a time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import TypeAlias

from firekiln.errors import FirekilnError, Location
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """Something that takes its time: a vertex, or work around the graph (`[internal] load build definition`).

    `inputs` are the tasks that have to end before it starts.
    """

    id: int
    name: str
    stage: str = ""
    location: Location | None = None
    inputs: tuple[Task, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Happened:
    """`at` is seconds since the epoch."""

    task: Task
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(_Happened):
    """The task began. One that is `Cached` never starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached(_Happened):
    """The result was known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(_Happened):
    """The task ended well. `size` is what it added to a file system: the bytes of its layers."""

    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(_Happened):
    """The task failed; the build ends with that error."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Canceled(_Happened):
    """The task was given up because another one failed or the user interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(_Happened):
    """The process of a RUN wrote `data` to descriptor `fd` (1 or 2)."""

    fd: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(_Happened):
    """A part of the task, `name`, has come as far as `current` of `total` bytes (0: unknown)."""

    name: str
    current: int = 0
    total: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something is allowed but doubtful. `rule` is the name of a build check, where it has one.

    `source` is the Dockerfile's text and `span` the part of it at `location` that is meant, where these are known.
    """

    message: str
    rule: str = ""
    location: Location | None = None
    source: str | None = field(default=None, repr=False)
    span: str | None = None


Event: TypeAlias = Started | Cached | Completed | Failed | Canceled | Output | Status | Warned
Subscriber: TypeAlias = Callable[[Event], None]


class Events:
    """Where a build says what happens. `subscriber` is called from several threads, never from two at a time."""

    def __init__(self, subscriber: Subscriber | None = None) -> None:
        self._subscriber = subscriber
        self._guard = threading.Lock()
        self._ids = itertools.count(1)

    def task(
        self, name: str, *, stage: str = "", location: Location | None = None, inputs: tuple[Task, ...] = ()
    ) -> Task:
        return Task(id=next(self._ids), name=name, stage=stage, location=location, inputs=inputs)

    @contextmanager
    def running(self, name: str) -> Iterator[Task]:
        """Work outside the graph, shown like a vertex."""
        task = self.task(name)
        self.emit(Started(task=task))
        try:
            yield task
        except FirekilnError as error:
            self.emit(Failed(task=task, message=error.message))
            raise
        self.emit(Completed(task=task))

    def emit(self, event: Event) -> None:
        if self._subscriber is not None:
            with self._guard:
                self._subscriber(event)
