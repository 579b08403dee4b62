"""RUN --mount=type=cache: folders of the store that outlive the step, locked as their sharing asks.

A cache is named by its id, by the owner and the mode that it is made with and, where `from` gives it its first
content, by what that is, as in BuildKit: another base is another cache, so that `uid=1000` never meets a folder of
root's. An id may be any text, so a hash of it names the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import assert_never

from firekiln.build.graph import CacheMount, ExecOp, Sharing
from firekiln.build.ops import content
from firekiln.build.runner import Runner
from firekiln.build.solver import Inputs, Solved
from firekiln.errors import BuildError, SandboxError
from firekiln.rootfs import lookup
from firekiln.rootfs.tree import Directory, Tree
from firekiln.store import Store, locks
from firekiln.values import dataclass

_NAME_LENGTH = 32
_DATA = "data"
"""What is mounted. It may be anybody's: the folder of the store that it lies in is ours."""


def folders(
    op: ExecOp,
    inputs: Inputs,
    *,
    store: Store,
    runner: Runner,
    waiting: Callable[[], None],
    stack: contextlib.ExitStack,
) -> dict[CacheMount, Path]:
    """The folders of the step's cache mounts, each locked once, and in an order that all steps keep to.

    `waiting` is called while a lock is awaited, and may raise; `stack` releases the locks. A new folder is furnished by
    the `runner`, whose steps will see it. BuildError where `from` lacks the folder that is asked for.
    """
    kind = runner.caches
    beginnings = [_beginning(mount, inputs, store, kind) for mount in op.mounts if isinstance(mount, CacheMount)]
    wanted = {beginning.name: beginning for beginning in beginnings}  # where several are of one name, the last one's
    made = {name: stack.enter_context(_folder(wanted[name], store, runner, waiting)) for name in sorted(wanted)}
    return {beginning.mount: made[beginning.name] for beginning in beginnings}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beginning:
    """A cache's name, and what a new one is made as: empty, or with the content of `tree`."""

    name: str
    mount: CacheMount
    tree: Tree | None


def _beginning(mount: CacheMount, inputs: Inputs, store: Store, kind: str) -> _Beginning:
    source = inputs[mount.input] if mount.input is not None else None
    tree = _tree(mount, source, store) if source is not None else None
    first = _made(mount) + (_identity(mount, source, tree) if source is not None and tree is not None else "")
    first += f"\0{kind}" if kind else ""
    name = hashlib.sha256(f"{mount.id}{first}".encode(errors="surrogateescape")).hexdigest()[:_NAME_LENGTH]
    return _Beginning(name=name, mount=mount, tree=tree)


@contextlib.contextmanager
def _folder(beginning: _Beginning, store: Store, runner: Runner, waiting: Callable[[], None]) -> Iterator[Path]:
    name, mount = beginning.name, beginning.mount
    match mount.sharing:
        case Sharing.SHARED | Sharing.LOCKED:
            shared = mount.sharing is Sharing.SHARED
            lock = store.locks.acquire(locks.of_cache(name), shared=shared, waiting=waiting)
        case Sharing.PRIVATE:
            number = 0
            while (found := store.locks.try_acquire(locks.of_cache(name))) is None:
                number += 1
                name = f"{name[:_NAME_LENGTH]}.{number}"
            lock = found
        case _:
            assert_never(mount.sharing)
    with lock:
        folder = store.cache_folder(name, fill=lambda made: _fill(runner, made / _DATA, mount, beginning.tree))
        yield folder / _DATA


def _tree(mount: CacheMount, source: Solved, store: Store) -> Tree:
    """What a new cache holds."""
    whole = source.tree if source.tree is not None else store.layers.merged(source.layers or ())
    found = lookup.resolve(whole, mount.source.strip("/").encode(errors="surrogateescape")).node
    if not isinstance(found, Directory):
        raise BuildError(f'"{mount.source}": not found, or no folder to begin a cache with')
    return found


def _made(mount: CacheMount) -> str:
    """What tells caches apart that are made with other metadata; nothing for the usual ones."""
    usual = (mount.mode, mount.uid, mount.gid) == (0o755, 0, 0)
    return "" if usual else f"\0{mount.mode:o} {mount.uid}:{mount.gid}"


def _identity(mount: CacheMount, source: Solved, tree: Tree) -> str:
    """What tells this beginning of a cache from others; an id holds no NUL."""
    return f"\0{source.chain}\0{mount.source}" if source.chain else f"\0{content.content_digest(tree)}"


def _fill(runner: Runner, folder: Path, mount: CacheMount, tree: Tree | None) -> None:
    folder.mkdir()
    try:
        runner.furnish(folder, mode=mount.mode, uid=mount.uid, gid=mount.gid, tree=tree)
    except OSError as error:
        raise SandboxError(f"cannot make a cache mount: {error.strerror}") from error
