"""A Tree as somebody who isn't root can have it."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from firekiln.rootfs.tree import Device, Directory, Fifo, File, Meta, Node, Socket, Symlink, Tree, Whiteout


def belonging_to(tree: Tree, *, uid: int, gid: int) -> Tree:
    """The same Tree, all of it this owner's, without device nodes, extended attributes and set-id bits."""
    known: dict[int, Node] = {}

    def meta(old: Meta) -> Meta:
        return replace(old, uid=uid, gid=gid, mode=old.mode & 0o1777, xattrs=())

    def directory(node: Directory) -> Directory:
        children = {name: owned(child) for name, child in node.children.items() if not isinstance(child, Device)}
        return Directory(meta=meta(node.meta), children=children)

    def owned(node: Node) -> Node:
        """One node for all names of a hard link."""
        if id(node) not in known:
            known[id(node)] = changed(node)
        return known[id(node)]

    def changed(node: Node) -> Node:
        match node:
            case Directory():
                return directory(node)
            case File() | Symlink() | Fifo() | Socket() | Device():
                return replace(node, meta=meta(node.meta))
            case Whiteout():
                return node
            case _:
                assert_never(node)

    return directory(tree)
