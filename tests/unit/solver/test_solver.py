"""The solver on a graph of made-up operations: a vertex's "work" is a name that is written down."""

from __future__ import annotations

import threading
import time

import pytest

from firekiln.build.events import Cached, Canceled, Completed, Events, Failed, Started
from firekiln.build.graph import ExecOp, ImageSource, MergeOp, Vertex
from firekiln.build.solver import CanceledError, Solved, Solver
from firekiln.errors import BuildError, Location
from firekiln.oci.platform import Platform
from firekiln.store import Lock

AMD64 = Platform("linux", "amd64")


def source(name="base"):
    return Vertex(op=ImageSource(reference=name, platform=AMD64), name=name)


def run(name, *inputs, **fields):
    line = int(fields.pop("line", 1))
    location = Location(file="Dockerfile", start=line, end=line)
    return Vertex(op=ExecOp(args=(name,), cwd="/", env=()), inputs=inputs, name=name, location=location, **fields)


def merge(*inputs):
    return Vertex(op=MergeOp(), inputs=inputs, name="merge")


def ordered(target):
    done, stack = {}, [(target, False)]
    while stack:
        vertex, expanded = stack.pop()
        if expanded:
            done[vertex] = None
        elif vertex is not None and vertex not in done:
            stack += [(vertex, True), *((item, False) for item in reversed(vertex.inputs))]
    return tuple(done)


class World:
    """Operations whose results last as long as the World: a second build finds them. `lost` are keys without files."""

    def __init__(self):
        self.results = {}
        self.lost = set()
        self.ran = []
        self.count = 0
        self.work = {}
        self.contents = {}
        self.locks = {}
        self.events = []

    def probe(self, vertex, inputs, task):  # noqa: ARG002 - the protocol's
        if isinstance(vertex.op, ImageSource):
            return Solved(chain=vertex.op.reference, digests=(vertex.op.reference,), layers=())
        if isinstance(vertex.op, MergeOp):
            return Solved(chain="+".join(item.chain for item in inputs), layers=())
        return None

    def key(self, vertex, inputs):
        if not isinstance(vertex.op, ExecOp):
            return None
        return "|".join([vertex.op.args[0], *(item.chain if item else "-" for item in inputs)])

    def content_key(self, vertex, inputs):
        if not isinstance(vertex.op, ExecOp) or not any(item and item.chain in self.contents for item in inputs[1:]):
            return None
        return "|".join([vertex.op.args[0], "content", *(self.contents.get(i.chain, i.chain) for i in inputs if i)])

    def find(self, key):
        found = self.results.get(key)
        if found is not None and key in self.lost:
            return Solved(chain=found.chain, digests=found.digests)
        return found

    def prepare(self, results):  # noqa: ARG002 - the protocol's
        return True

    def alias(self, key, content_key):
        self.results[key] = self.results[content_key]

    def lock(self, key, waiting):
        lock = self.locks.setdefault(key, threading.Lock())
        while not lock.acquire(timeout=0.01):
            waiting()
        return Releasing(lock)

    def run(self, vertex, inputs, keys, lock, task):  # noqa: ARG002 - the protocol's
        name = vertex.name
        self.ran.append(name)
        self.work.get(name, lambda: None)()
        self.count += 1
        solved = Solved(chain=f"{name}#{self.count}", digests=(name,), layers=())
        for key in keys:
            self.results[key] = solved
            self.lost.discard(key)
        return solved

    def solver(self, target, *, cancel=None, width=4):
        vertices = ordered(target)
        return Solver(vertices, self, Events(self.events.append), cancel=cancel or threading.Event(), width=width)

    def solve(self, target, **options):
        self.ran.clear()
        self.events.clear()
        return self.solver(target, **options).solve(target)

    def said(self, kind):
        return [event.task.name for event in self.events if isinstance(event, kind)]


class Releasing(Lock):
    def __init__(self, lock):
        super().__init__(-1)
        self.lock = lock

    def release(self):
        self.lock.release()


def chain(names, base=None):
    vertex = base or source()
    for number, name in enumerate(names):
        vertex = run(name, vertex, line=number + 2)
    return vertex


def test_steps_run_in_order_and_a_second_build_runs_nothing():
    world = World()
    assert world.solve(chain("abc"))
    assert world.ran == ["a", "b", "c"]
    world.solve(chain("abc"))
    assert world.ran == []
    assert world.said(Cached) == ["base", "a", "b", "c"]


def test_a_changed_step_runs_again_with_all_that_stand_on_it():
    world = World()
    world.solve(chain("abc"))
    world.solve(chain("axc"))
    assert world.ran == ["x", "c"]
    assert world.said(Cached) == ["base", "a"]


def test_of_results_whose_files_are_gone_only_what_is_needed_is_made_again():
    world = World()
    world.solve(chain("abc"))
    world.lost = {key for key in world.results if key.startswith(("a|", "b|"))}
    world.solve(chain("abc"))
    assert world.ran == []
    world.solve(chain("abcd"))
    assert world.ran == ["d"]
    world.lost = set(world.results)
    world.solve(chain("ab"))
    assert world.ran == ["a", "b"]


def test_a_step_that_ran_again_gives_its_users_new_keys():
    world = World()
    world.solve(chain("ab"))
    again = run("b", run("a", source(), ignore_cache=True))
    world.solve(again)
    assert world.ran == ["a", "b"]


def test_independent_steps_run_at_the_same_time():
    world = World()
    both = threading.Barrier(2, timeout=10)
    world.work = {"a": both.wait, "b": both.wait}
    world.solve(run("last", run("a", source()), run("b", source())))
    assert world.ran[2:] == ["last"]


def test_no_more_steps_run_at_the_same_time_than_asked_for():
    world = World()
    running, most, guard = [0], [0], threading.Lock()

    def work():
        with guard:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with guard:
            running[0] -= 1

    names = "abcdef"
    world.work = dict.fromkeys(names, work)
    world.solve(run("last", *(run(name, source()) for name in names)), width=2)
    assert most[0] == 2


def test_identical_steps_run_once_in_a_build():
    world = World()
    world.work = {"a": lambda: time.sleep(0.05)}
    base = source()
    world.solve(run("last", run("a", base), run("a", base)))
    assert sorted(world.ran) == ["a", "last"]
    world.solve(run("last", run("a", base, ignore_cache=True), run("a", base, ignore_cache=True)))
    assert world.ran.count("a") == 1


def test_a_step_that_reads_a_stage_is_known_by_what_it_reads():
    world = World()
    world.contents = {"a#1": "same", "x#3": "same"}
    world.solve(run("copy", source(), run("a", source("builder"))))
    world.solve(run("copy", source(), run("x", source("builder"))))
    assert world.ran == ["x"]
    assert "copy" in world.said(Cached)
    world.solve(run("copy", source(), run("x", source("builder"))))
    assert world.ran == []


def test_a_failure_is_raised_with_its_place_and_ends_the_build():
    def fail():
        raise BuildError("boom")

    world = World()
    world.work = {"b": fail}
    with pytest.raises(BuildError, match="Dockerfile:3: boom"):
        world.solve(chain("abc"))
    assert world.ran == ["a", "b"]
    assert world.said(Failed) == ["b"]
    world.work = {}
    world.solve(chain("abc"))
    assert world.ran == ["b", "c"]


def test_a_failure_cancels_what_runs_beside_it_and_waits_for_its_end():
    cancel = threading.Event()
    ended = []

    def fail():
        time.sleep(0.02)
        raise BuildError("boom")

    def wait():
        assert cancel.wait(10)
        time.sleep(0.05)
        ended.append(True)
        raise CanceledError("canceled")

    world = World()
    world.work = {"fails": fail, "waits": wait}
    with pytest.raises(BuildError, match="boom"):
        world.solve(run("last", run("fails", source()), run("waits", source())), cancel=cancel)
    assert ended == [True]
    assert world.said(Canceled) == ["waits"]
    assert "last" not in world.ran


def test_canceling_from_outside_ends_the_build():
    cancel = threading.Event()
    world = World()
    world.work = {"a": cancel.set}
    with pytest.raises(CanceledError):
        world.solve(chain("ab"), cancel=cancel)
    assert world.ran == ["a"]


def test_events_of_a_step_are_its_start_and_its_end():
    world = World()
    world.solve(chain("a"))
    assert world.said(Started) == ["a"]
    assert world.said(Completed) == ["a"]


def test_a_merge_is_known_where_its_parts_are():
    world = World()
    target = merge(run("a", source()), run("b", None))
    world.solve(target)
    assert sorted(world.ran) == ["a", "b", "merge"]
    world.solve(target)
    assert world.ran == []


def test_a_chain_of_a_thousand_steps_is_no_deeper_than_one():
    world = World()
    world.solve(chain([f"s{number}" for number in range(1000)]))
    assert len(world.ran) == 1000
