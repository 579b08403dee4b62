"""Sources: base images, build contexts, files by HTTP, checkouts."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import assert_never

from firekiln.build import cachekey
from firekiln.build.context import Context
from firekiln.build.events import Completed, Events, Started, Task
from firekiln.build.gitaccess import NO_ACCESS, GitAccess
from firekiln.build.graph import ContextSource, GitSource, HttpSource, ImageSource
from firekiln.build.solver import Solved
from firekiln.build.sources import Resolver
from firekiln.errors import BuildError
from firekiln.rootfs.tree import Tree
from firekiln.store import Store


class Sources:
    """The sources of one build. What is fetched lies in the process's temporary folder."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        contexts: Mapping[str, Context],
        store: Store,
        events: Events,
        access: GitAccess = NO_ACCESS,
    ) -> None:
        self._resolver = resolver
        self._contexts = contexts
        self._store = store
        self._events = events
        self._access = access

    def probe(self, op: ImageSource | ContextSource | HttpSource | GitSource, task: Task) -> Solved | None:
        """What can be said without the network. What has a checksum is known by it before it is fetched."""
        match op:
            case ImageSource():
                return self._image(op)
            case ContextSource():
                self._events.emit(Started(task=task))
                solved = Solved(chain="", tree=self._context(op))
                self._events.emit(Completed(task=task))
                return solved
            case HttpSource(checksum=checksum) | GitSource(checksum=checksum):
                return Solved(chain=_pinned(op)) if checksum else None
            case _:
                assert_never(op)

    def load(self, op: ImageSource | ContextSource | HttpSource | GitSource) -> Solved:
        """The source's content. BuildError where it can't be had."""
        match op:
            case ImageSource():
                return self._image(op)
            case ContextSource():
                return Solved(chain="", tree=self._context(op))
            case HttpSource():
                return Solved(chain=_pinned(op) if op.checksum else "", tree=self._fetch(op))
            case GitSource():
                return Solved(chain=_pinned(op) if op.checksum else "", tree=self._checkout(op))
            case _:
                assert_never(op)

    def _image(self, op: ImageSource) -> Solved:
        image = self._resolver.resolve(op.reference, op.platform)
        digests = tuple(layer.digest for layer in image.layers)
        return Solved(
            chain=cachekey.chain_of_image(digests),
            digests=digests,
            created=image.image.created or "",
            layers=image.layers,
        )

    def _context(self, op: ContextSource) -> Tree:
        context = self._contexts.get(op.name)
        if context is None:
            raise BuildError(f'there is no build context "{op.name}"')
        return context.tree()

    def _fetch(self, op: HttpSource) -> Tree:
        from firekiln.build.fetch import fetch  # noqa: PLC0415 - an HTTP client takes 30 ms to import

        return fetch(op, folder=self._store.temporary.folder)

    def _checkout(self, op: GitSource) -> Tree:
        from firekiln.build.git import checkout  # noqa: PLC0415 - few builds need it

        folder = Path(tempfile.mkdtemp(prefix="git.", dir=self._store.temporary.folder))
        return checkout(op, folder, self._access)


def _pinned(op: HttpSource | GitSource) -> str:
    return hashlib.sha256(repr(op).encode()).hexdigest()
