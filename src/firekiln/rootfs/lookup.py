"""Finding nodes of a Tree by path, as a process whose root is the Tree would find them.

Nothing here can leave the Tree: `..` stops at its root, and an absolute link's target is counted from its root. Paths
may start with, end with or double a slash; answers never do.
"""

from __future__ import annotations

from collections import deque

from firekiln.errors import RootfsError
from firekiln.rootfs.inodes import shown
from firekiln.rootfs.tree import Directory, Node, Symlink, Tree, Whiteout
from firekiln.values import dataclass

MAX_LINKS = 40
"""Symbolic links followed in one look-up before it is a loop: path_resolution(7)'s figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Where a path leads. `path` has no links, dots or slashes at its ends left in it.

    `node` is None where nothing is there; `path` is then where it would have to be made, the parts below the last
    directory that exists being taken as they stand. `parent` is the directory that holds (or would hold) the last
    name: None where that is missing too or is no directory, and for the root.
    """

    path: bytes
    node: Node | None
    parent: Directory | None


def resolve(tree: Tree, path: bytes, *, follow_last: bool = True) -> Resolved:
    """Follow `path` through the symbolic links of `tree`; the last name's own link only with `follow_last`.

    RootfsError after MAX_LINKS links. A name below something that is no directory is missing, as is a whiteout's.
    """
    pending = deque(_parts(path))
    names: list[bytes] = []
    nodes: list[Node | None] = [tree]  # nodes[i] is what names[:i] leads to
    links = 0
    while pending:
        name = pending.popleft()
        if name == b"..":
            if names:
                names.pop()
                nodes.pop()
            continue
        node = _child(nodes[-1], name)
        if isinstance(node, Symlink) and (pending or follow_last):
            links += 1
            if links > MAX_LINKS:
                raise RootfsError(f"/{shown(path.lstrip(b'/'))}: too many levels of symbolic links")
            pending.extendleft(reversed(_parts(node.target)))
            if node.target.startswith(b"/"):
                names, nodes = [], [tree]
            continue
        names.append(name)
        nodes.append(node)
    above = nodes[-2] if names else None
    return Resolved(path=b"/".join(names), node=nodes[-1], parent=above if isinstance(above, Directory) else None)


def get(tree: Tree, path: bytes) -> Node | None:
    """The node under exactly this path, no link followed and `..` refused (None); a whiteout is answered as such."""
    node: Node | None = tree
    for name in _parts(path):
        if not isinstance(node, Directory):
            return None
        node = node.children.get(name)
    return node


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in {b"", b"."}]


def _child(node: Node | None, name: bytes) -> Node | None:
    child = node.children.get(name) if isinstance(node, Directory) else None
    return None if isinstance(child, Whiteout) else child
