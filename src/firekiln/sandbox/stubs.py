"""What a step changed, without the mount points that were made for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from firekiln.rootfs import lookup
from firekiln.rootfs.tree import Directory, File, Meta, Node, Tree
from firekiln.sandbox.request import Stub


def prune(diff: Tree, stubs: Sequence[Stub]) -> None:
    """Take from `diff`, an upper side just read, what only the mounting put there.

    That is: the stubs, if they are still empty, and the directories above them that were copied up for no other reason
    (nothing below them differs, and their own metadata is what it was).
    """
    made = {os.fsencode(path) for stub in stubs for path in stub.made}
    above = {
        os.fsencode(path): (mode, uid, gid, mtime)
        for stub in reversed(stubs)
        for path, mode, uid, gid, mtime in stub.above
    }
    for path in sorted(made | set(above), key=lambda path: path.count(b"/"), reverse=True):
        parent, name = _holder(diff, path)
        node = parent.children.get(name) if parent else None
        if parent is None or node is None:
            continue
        gone = _is_empty(node) if path in made else _is_unchanged(node, above[path])
        if gone:
            del parent.children[name]


def foreseen(lower: Tree, targets: Sequence[str]) -> list[Stub]:
    """The mount points that have to be made in `lower`, the layers' merged Tree, for mounts at `targets` in this order.

    RootfsError where links lead in circles.
    """
    stubs: list[Stub] = []
    mounted: list[bytes] = []
    for target in targets:
        path = lookup.resolve(lower, os.fsencode(target)).path
        if not any(path == other or path.startswith(other + b"/") for other in mounted):
            stubs.extend(_missing(lower, path))
        mounted.append(path)
    return stubs


def _missing(lower: Tree, path: bytes) -> Iterator[Stub]:
    names = path.split(b"/")
    above: list[tuple[str, int, int, int, int]] = []
    node: Node | None = lower
    for depth, name in enumerate(names):
        if not isinstance(node, Directory):
            return
        above.append((os.fsdecode(b"/".join(names[:depth])), *_kept(node.meta)))
        node = node.children.get(name)
        if node is None:
            made = [os.fsdecode(b"/".join(names[: end + 1])) for end in range(depth, len(names))]
            yield Stub(made=tuple(made), above=tuple(above))
            return


def _holder(tree: Tree, path: bytes) -> tuple[Directory | None, bytes]:
    """The directory of `tree` that holds the last name of `path`, and that name. None for the root and what is gone."""
    *folders, name = path.split(b"/")
    node: Node | None = tree if name else None
    for folder in folders:
        node = node.children.get(folder) if isinstance(node, Directory) else None
    return (node, name) if isinstance(node, Directory) else (None, name)


def _is_empty(node: Node) -> bool:
    return (isinstance(node, Directory) and not node.children) or (isinstance(node, File) and node.size == 0)


def _is_unchanged(node: Node, before: tuple[int, int, int, int]) -> bool:
    if not isinstance(node, Directory) or node.children or node.opaque:
        return False
    return _kept(node.meta) == before


def _kept(meta: Meta) -> tuple[int, int, int, int]:
    return meta.mode, meta.uid, meta.gid, meta.mtime_ns
