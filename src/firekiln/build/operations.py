"""What the vertices of a real graph do: the solver's `Operations` on a store, a context and a Runner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from firekiln.build import cachekey
from firekiln.build.cachekey import Surroundings
from firekiln.build.caches import Caches
from firekiln.build.clamp import clamp
from firekiln.build.events import Events, Output, Task
from firekiln.build.graph import (
    BindMount,
    CacheMount,
    ContextSource,
    Copy,
    ExecOp,
    FileOp,
    GitSource,
    HttpSource,
    ImageSource,
    MergeOp,
    Vertex,
)
from firekiln.build.image import timestamp
from firekiln.build.ops.execute import Executor
from firekiln.build.ops.source import Sources
from firekiln.build.solver import Inputs, Solved
from firekiln.rootfs.tree import Meta, Tree
from firekiln.store import Layer, Lock, Result, Store
from firekiln.store.locks import named
from firekiln.store.staging import Staging

if TYPE_CHECKING:
    from firekiln.build.ops.filedigest import FileDigests

_NS = 1_000_000_000
_EMPTY_ROOT = Meta(mode=0o755)
"""The root directory of `scratch`."""


class GraphOperations:
    """One build's operations. `epoch` is SOURCE_DATE_EPOCH in seconds."""

    def __init__(
        self,
        *,
        store: Store,
        staging: Staging,
        caches: Caches,
        sources: Sources,
        executor: Executor,
        surroundings: Surroundings,
        events: Events,
        epoch: int | None,
    ) -> None:
        self._store = store
        self._staging = staging
        self._sources = sources
        self._executor = executor
        self._surroundings = surroundings
        self._events = events
        self._epoch = epoch
        self._caches = caches
        self._trees: dict[tuple[str, ...], Tree] = {}
        self._guard = threading.Lock()
        self._files: FileDigests | None = None
        self.contents: dict[Vertex, set[tuple[str, str]]] = {}
        """What was read of sources that are no stacks of layers: paths, and digests of what lay there."""

    def probe(self, vertex: Vertex, inputs: Inputs, task: Task) -> Solved | None:
        match vertex.op:
            case ImageSource() | ContextSource() | HttpSource() | GitSource():
                return self._sources.probe(vertex.op, task)
            case MergeOp():
                return _merged(inputs)
            case FileOp() | ExecOp():
                return None
            case _:
                assert_never(vertex.op)

    def key(self, vertex: Vertex, inputs: Inputs) -> str | None:
        if not isinstance(vertex.op, FileOp | ExecOp):
            return None
        if any(item is not None and not item.chain and item.tree is None for item in inputs):
            return None
        return self._key(vertex, vertex.op, inputs, [item.chain if item is not None else None for item in inputs])

    def content_key(self, vertex: Vertex, inputs: Inputs) -> str | None:
        op = vertex.op
        read = [item for item in inputs[1:] if item is not None and item.chain]
        if not isinstance(op, FileOp | ExecOp) or not read or not cachekey.reads_content(op):
            return None
        base = inputs[0].chain if inputs[0] is not None else None
        return self._key(vertex, op, inputs, [base, *(None if item is None else "" for item in inputs[1:])])

    def find(self, key: str) -> Solved | None:
        found = self._caches.find(key)
        if found is None:
            return None
        result = found.result
        return Solved(chain=result.chain, digests=result.layers, created=result.created, layers=found.layers)

    def prepare(self, results: Iterable[Solved]) -> bool:
        return self._caches.prepare(layer for result in results for layer in result.layers or ())

    def note_files(self) -> None:
        """Remember the digests of the context's files, also where the build failed."""
        if self._files is not None:
            self._files.save()

    def alias(self, key: str, content_key: str) -> None:
        self._caches.alias(key, content_key)

    def lock(self, key: str, waiting: Callable[[], None]) -> Lock:
        return self._store.locks.acquire(named(key), waiting=waiting)

    def run(self, vertex: Vertex, inputs: Inputs, keys: Sequence[str], lock: Lock | None, task: Task) -> Solved:
        match vertex.op:
            case ImageSource() | ContextSource() | HttpSource() | GitSource():
                return self._sources.load(vertex.op)
            case MergeOp():
                return _merged(inputs)
            case FileOp():
                diff = self._apply(vertex.op, inputs)
                below = None if vertex.op.link else inputs[0]
                return self._record(self._write(diff, below), below, keys, lock)
            case ExecOp():

                def output(fd: int, data: bytes) -> None:
                    self._events.emit(Output(task=task, fd=fd, data=data))

                with self._executor.run(vertex.op, inputs, output) as diff:
                    layer = self._write(diff, inputs[0])
                return self._record(layer, inputs[0], keys, lock)
            case _:
                assert_never(vertex.op)

    def _apply(self, op: FileOp, inputs: Inputs) -> Tree:
        from firekiln.build.ops.fileop import apply  # noqa: PLC0415 - a fully cached build applies nothing

        trees = [self._tree(item) for item in inputs]
        now_ns = time.time_ns() if self._epoch is None else self._epoch * _NS
        return apply(op, trees[0], trees, now_ns=now_ns, folder=self._store.temporary.folder)

    def _write(self, diff: Tree, below: Solved | None) -> Layer | None:
        """The step's layer; None where it changed nothing, as `WORKDIR` on a directory that is there."""
        if not diff.children and not diff.opaque:
            tree = self._tree(below)
            root = tree.meta if tree is not None else _EMPTY_ROOT
            # Making the upper side of an overlay touches its root: its time alone is no change.
            if replace(diff.meta, mtime_ns=0) == replace(root, mtime_ns=0):
                return None
        return self._staging.layer(diff if self._epoch is None else clamp(diff, self._epoch * _NS))

    def _record(self, layer: Layer | None, below: Solved | None, keys: Sequence[str], lock: Lock | None) -> Solved:
        digests = below.digests if below is not None else ()
        layers = (below.layers if below is not None else None) or ()
        if layer is not None:
            digests = (*digests, layer.digest)
        result = Result(
            # Without a key (nothing tells what was read but the reading) no result is ever found again.
            chain=cachekey.chain_of(keys[-1] if keys else "", digests),
            layers=digests,
            created=timestamp(time.time() if self._epoch is None else self._epoch),
        )
        layer = self._caches.made(keys, result, layer)
        if layer is not None:
            layers = (*layers, layer)
        if keys and lock is not None:
            self._staging.record(dict.fromkeys(keys, result), layer, lock.transfer())
        return Solved(chain=result.chain, digests=digests, created=result.created, layers=layers)

    def _key(self, vertex: Vertex, op: FileOp | ExecOp, inputs: Inputs, chains: Sequence[str | None]) -> str:
        from firekiln.build.ops import content  # noqa: PLC0415 - RUN alone needs no content

        def read(index: int, part: Copy | BindMount | CacheMount) -> str:
            solved, source = inputs[index], vertex.inputs[index]
            tree = self._tree(solved)
            files = source is not None and solved is not None and solved.tree is not None
            digests = self._digests() if files else None
            if isinstance(part, Copy):
                path, digest = part.src, content.copy_key(part, tree, digests)
            else:
                path, digest = part.source, content.path_key(part.source, tree, digests)
            if source is not None and files:
                with self._guard:
                    self.contents.setdefault(source, set()).add((path, digest))
            return digest

        return cachekey.vertex_key(op, chains, read, self._surroundings)

    def _digests(self) -> FileDigests:
        from firekiln.build.ops.filedigest import FileDigests  # noqa: PLC0415 - RUN alone needs no content

        with self._guard:
            if self._files is None:
                self._files = FileDigests(self._store.root / "contexts")
            return self._files

    def _tree(self, solved: Solved | None) -> Tree | None:
        """A result's files, merged; None for `scratch`."""
        if solved is None:
            return None
        if solved.tree is not None:
            return solved.tree
        assert solved.layers is not None
        tree = self._trees.get(solved.digests)
        if tree is None:
            tree = self._trees[solved.digests] = self._store.layers.merged(solved.layers)
        return tree


def _merged(inputs: Inputs) -> Solved:
    """The layers of all inputs, one on the other."""
    parts = [item for item in inputs if item is not None]
    layers: tuple[Layer, ...] | None = ()
    for part in parts:
        layers = None if layers is None or part.layers is None else layers + part.layers
    return Solved(
        chain=cachekey.chain_of_merge([part.chain for part in parts]),
        digests=tuple(digest for part in parts for digest in part.digests),
        created=parts[-1].created if parts else "",
        layers=layers,
    )
