"""What a step changed, without the mount points that were made for it."""

from __future__ import annotations

import os
from collections.abc import Sequence

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
