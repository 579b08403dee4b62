"""Layers laid on one another, as overlayfs shows them: pure operations on Trees, lazy directory by directory.

The upper node of a name wins; directories of one name are united, down to the first one that is opaque or that hides
something else than a directory. The metadata of a united directory are those of its uppermost part, the root's too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from firekiln.rootfs.tree import Directory, Meta, Node, Tree, Whiteout


def merge(layers: Sequence[Tree]) -> Tree:
    """What a mount of `layers`, lowest first, shows: whiteouts and opaque directories applied, none of them left."""
    return _directory(reversed(layers), keep_whiteouts=False)


def squash(layers: Sequence[Tree]) -> Tree:
    """One layer that does to whatever lies below it what `layers`, lowest first, do one after the other.

    Whiteouts stay where they may hide something, and a directory that hides something of the layers below is opaque.
    """
    return _directory(reversed(layers), keep_whiteouts=True)


def stack(lower: Tree, upper: Tree, *, keep_whiteouts: bool = True) -> Tree:
    """`upper` laid on `lower`: `squash` of the two, or `merge` where nothing lies below (`keep_whiteouts=False`)."""
    return _directory((upper, lower), keep_whiteouts=keep_whiteouts)


def _directory(nodes: Iterable[Node], *, keep_whiteouts: bool) -> Directory:
    """The union of the directories at the head of `nodes`, the nodes of one name, uppermost first."""
    parts: list[Directory] = []
    closed = False
    for node in nodes:
        if isinstance(node, Directory):
            parts.append(node)
        closed = not isinstance(node, Directory) or node.opaque
        if closed:
            break
    if not parts:
        return Directory(meta=Meta(mode=0o755))
    # Where nothing below shows through, whiteouts would say nothing, and overlayfs would list them.
    load = partial(_children, parts, keep_whiteouts=keep_whiteouts and not closed)
    return Directory(meta=parts[0].meta, load=load, opaque=keep_whiteouts and closed)


def _children(parts: list[Directory], *, keep_whiteouts: bool) -> dict[bytes, Node]:
    tops: dict[bytes, Node] = {}
    stacks: dict[bytes, list[Node]] = {}  # of the few names that several parts have
    for part in parts:
        for name, node in part.children.items():
            top = tops.setdefault(name, node)
            if top is not node:
                stacks.setdefault(name, [top]).append(node)
    children: dict[bytes, Node] = {}
    for name, top in tops.items():
        if isinstance(top, Directory):
            children[name] = _directory(stacks.get(name, (top,)), keep_whiteouts=keep_whiteouts)
        elif keep_whiteouts or not isinstance(top, Whiteout):
            children[name] = top
    return children
