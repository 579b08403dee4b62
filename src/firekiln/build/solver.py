"""The solver: carries out what a target needs of a graph, in parallel, and nothing whose result is known.

First every vertex that can be told without running anything is looked up, inputs before users. Then, from the target
back, what is neither known nor below something known is run, each vertex as soon as its inputs are there. The first
failure cancels the rest; `solve` returns or raises when nothing runs any more.

What a vertex does, and how its key is made, is the business of `Operations`; the solver knows only the graph.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event as Flag
from typing import Protocol, TypeAlias

from firekiln.build.events import Cached, Canceled, Completed, Events, Failed, Started, Task
from firekiln.build.graph import Vertex
from firekiln.errors import BuildError, FirekilnError, RootfsError, SandboxError
from firekiln.rootfs.tree import Tree
from firekiln.store import Layer, Lock
from firekiln.values import dataclass

_WIDTH = 4
"""Vertices that run at the same time on few processors: most wait for a network or a disk."""


class CanceledError(BuildError):
    """Something else failed first, or the user interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """What is known of a vertex.

    chain    what its users' keys are made of; "" where only its content tells what it is (a build context)
    digests  of its snapshot's layers, lowest first
    created  when it ran (RFC 3339), "" for sources
    layers   the snapshot's layers; None where the digests are known, but the files have to be made again
    tree     of a source that is no stack of layers
    """

    chain: str
    digests: tuple[str, ...] = ()
    created: str = ""
    layers: tuple[Layer, ...] | None = None
    tree: Tree | None = None

    @property
    def ready(self) -> bool:
        """Whether its files can be read."""
        return self.layers is not None or self.tree is not None


Inputs: TypeAlias = Sequence[Solved | None]
"""Results of a vertex's inputs; None is `scratch`."""


class Operations(Protocol):
    """What vertices do. Called from several threads at a time; each method may raise FirekilnErrors."""

    def probe(self, vertex: Vertex, inputs: Inputs, task: Task) -> Solved | None:
        """What can be said of a vertex that has no key (a source, a merge) without fetching or making anything."""
        ...

    def key(self, vertex: Vertex, inputs: Inputs) -> str | None:
        """The vertex's key. None where it has none (sources), or where an input has to be ready first."""
        ...

    def content_key(self, vertex: Vertex, inputs: Inputs) -> str | None:
        """The key by content, all inputs being ready. None where it is no other than `key`."""
        ...

    def find(self, key: str) -> Solved | None:
        """What is recorded under `key`."""
        ...

    def prepare(self, results: Iterable[Solved]) -> bool:
        """Make what `find` answered readable. False where it can't be had after all: `find` then answers otherwise."""
        ...

    def alias(self, key: str, content_key: str) -> None:
        """Record what `content_key` stands for under `key` too."""
        ...

    def lock(self, key: str, waiting: Callable[[], None]) -> Lock:
        """Keep others, in this process or another, from running what has this key. `waiting` may raise."""
        ...

    def run(self, vertex: Vertex, inputs: Inputs, keys: Sequence[str], lock: Lock | None, task: Task) -> Solved:
        """Carry the vertex out and record the result under `keys`. All inputs are ready.

        Where the result is recorded later, `lock` is transferred and released then.
        """
        ...


class Solver:
    """Solves one graph once. `vertices` come inputs before users."""

    def __init__(
        self,
        vertices: Iterable[Vertex],
        operations: Operations,
        events: Events,
        *,
        cancel: Flag,
        width: int | None = None,
    ) -> None:
        self._vertices = tuple(vertices)
        self._operations = operations
        self._events = events
        self._cancel = cancel
        self._width = width or max(_WIDTH, os.cpu_count() or 1)
        self._tasks: dict[Vertex, Task] = {}
        for vertex in self._vertices:
            below = tuple(self._tasks[source] for source in vertex.inputs if source is not None)
            self._tasks[vertex] = events.task(vertex.name, stage=vertex.stage, location=vertex.location, inputs=below)
        self._solved: dict[Vertex, Solved] = {}
        self._shown: set[Vertex] = set()
        self._made: dict[str, Solved] = {}
        self._failure: BaseException | None = None

    def solve(self, target: Vertex) -> Mapping[Vertex, Solved]:
        """All that became known; the target is ready. The first failure is raised, with its vertex's location."""
        while True:
            for vertex in self._vertices:
                with self._reported(vertex):
                    self._probe(vertex)
            needed = self._needed(target)
            if self._operations.prepare(self._relied_on(target, needed)):
                break
            self._solved.clear()
        for vertex in self._vertices:
            known = self._solved.get(vertex)
            if known is not None and known.tree is None and vertex not in needed:
                self._show_cached(vertex)
        self._run(needed)
        return self._solved

    def _relied_on(self, target: Vertex, needed: Sequence[Vertex]) -> list[Solved]:
        """The known results that are read: the target's, or those that what has to be carried out stands on."""
        wanted = {target, *(source for vertex in needed for source in vertex.inputs if source is not None)}
        return [self._solved[vertex] for vertex in wanted if self._is_ready(vertex)]

    def _probe(self, vertex: Vertex) -> None:
        """Look a vertex up without making anything."""
        inputs = self._inputs(vertex)
        if inputs is None:
            return
        source = self._operations.probe(vertex, inputs, self._tasks[vertex])
        if source is not None:
            self._solved[vertex] = source
        if source is not None or vertex.ignore_cache:
            return
        key = self._operations.key(vertex, inputs)
        found = self._operations.find(key) if key is not None else None
        if found is not None:
            self._solved[vertex] = found

    def _inputs(self, vertex: Vertex) -> list[Solved | None] | None:
        """What is known of a vertex's inputs; None while anything is missing."""
        found: list[Solved | None] = []
        for source in vertex.inputs:
            if source is not None and source not in self._solved:
                return None
            found.append(self._solved[source] if source is not None else None)
        return found

    def _needed(self, target: Vertex) -> list[Vertex]:
        """What has to be carried out, inputs before users."""
        wanted = {target}
        for vertex in reversed(self._vertices):
            if vertex in wanted and not self._is_ready(vertex):
                wanted.update(source for source in vertex.inputs if source is not None)
        return [vertex for vertex in self._vertices if vertex in wanted and not self._is_ready(vertex)]

    def _is_ready(self, vertex: Vertex) -> bool:
        solved = self._solved.get(vertex)
        return solved is not None and solved.ready

    def _run(self, needed: Sequence[Vertex]) -> None:
        """Carry out `needed`; on return, and when an error is raised, no thread is left."""
        threads: list[threading.Thread] = []
        try:
            self._schedule(needed, threads)
        except BaseException as error:
            self._cancel.set()
            if isinstance(error, CanceledError) and self._failure is not None:
                raise self._failure from None
            raise
        finally:
            for thread in threads:
                thread.join()

    def _schedule(self, needed: Sequence[Vertex], threads: list[threading.Thread]) -> None:
        """Give each vertex a thread once its inputs are ready, `width` of them at a time."""
        ended: SimpleQueue[tuple[Vertex, Solved | BaseException]] = SimpleQueue()
        waiting = list(needed)
        running = 0
        while waiting or running:
            ready = [vertex for vertex in waiting if all(v is None or self._is_ready(v) for v in vertex.inputs)]
            for vertex in ready[: self._width - running]:
                waiting.remove(vertex)
                threads.append(threading.Thread(target=self._work, args=(vertex, ended), name="firekiln-step"))
                threads[-1].start()
                running += 1
            vertex, outcome = ended.get()
            running -= 1
            if isinstance(outcome, BaseException):
                raise outcome
            self._solved[vertex] = outcome

    def _work(self, vertex: Vertex, ended: SimpleQueue[tuple[Vertex, Solved | BaseException]]) -> None:
        """Carry out one vertex whose inputs are ready, in a thread of its own, and say how that ended."""
        try:
            with self._reported(vertex):
                solved = self._carry_out(vertex, self._tasks[vertex])
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            ended.put((vertex, error))
        else:
            ended.put((vertex, solved))

    @contextmanager
    def _reported(self, vertex: Vertex) -> Iterator[None]:
        """Say how the work on a vertex failed; the first failure cancels the rest."""
        task = self._tasks[vertex]
        try:
            with _located(vertex):
                self._check_canceled()
                yield
        except CanceledError:
            self._events.emit(Canceled(task=task))
            raise
        except BaseException as error:
            message = error.message if isinstance(error, FirekilnError) else str(error)
            self._events.emit(Failed(task=task, message=message))
            self._failure = self._failure or error
            self._cancel.set()
            raise

    def _carry_out(self, vertex: Vertex, task: Task) -> Solved:
        operations = self._operations
        inputs = self._inputs(vertex)
        assert inputs is not None
        key = operations.key(vertex, inputs)
        if key is None:
            return self._execute(vertex, inputs, (), None, task)
        with operations.lock(key, self._check_canceled) as lock:
            found = self._find(vertex, key)
            content_key = None
            if found is None:
                content_key = operations.content_key(vertex, inputs)
                found = self._find(vertex, content_key)
                if found is not None and content_key is not None:
                    operations.alias(key, content_key)
            if found is not None:
                self._show_cached(vertex)
                return found
            keys = tuple(filter(None, (key, content_key)))
            return self._execute(vertex, inputs, keys, lock, task)

    def _find(self, vertex: Vertex, key: str | None) -> Solved | None:
        """What has this key and can be read: made by this build, or known before and not to be ignored."""
        if key is None:
            return None
        if key in self._made or vertex.ignore_cache:
            return self._made.get(key)
        found = self._operations.find(key)
        return found if found is not None and found.ready and self._operations.prepare([found]) else None

    def _execute(self, vertex: Vertex, inputs: Inputs, keys: Sequence[str], lock: Lock | None, task: Task) -> Solved:
        self._events.emit(Started(task=task))
        solved = self._operations.run(vertex, inputs, keys, lock, task)
        self._made.update(dict.fromkeys(keys, solved))
        self._events.emit(Completed(task=task, size=_added(inputs, solved)))
        return solved

    def _show_cached(self, vertex: Vertex) -> None:
        if vertex not in self._shown:
            self._shown.add(vertex)
            self._events.emit(Cached(task=self._tasks[vertex]))

    def _check_canceled(self) -> None:
        if self._cancel.is_set():
            raise CanceledError("canceled")


def _added(inputs: Inputs, solved: Solved) -> int:
    """Bytes of the layers that do not come from what the vertex stands on."""
    below = inputs[0].digests if inputs and inputs[0] is not None else ()
    layers = solved.layers or ()
    stands = solved.digests[: len(below)] == below
    return sum(layer.size for layer in (layers[len(below) :] if stands else layers))


@contextmanager
def _located(vertex: Vertex) -> Iterator[None]:
    """Say of errors which instruction is to blame."""
    try:
        yield
    except CanceledError:
        raise
    except BuildError as error:
        error.location = error.location or vertex.location
        raise
    except (RootfsError, SandboxError) as error:
        raise BuildError(error.message, location=vertex.location, hint=error.hint) from error
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise BuildError(f"{place}{(error.strerror or str(error)).lower()}", location=vertex.location) from error
