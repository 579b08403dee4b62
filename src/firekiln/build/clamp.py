"""SOURCE_DATE_EPOCH: times later than it become it, as BuildKit's `rewrite-timestamp` does."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from firekiln.rootfs.tree import Device, Directory, Fifo, File, Inode, Meta, Node, Socket, Symlink, Tree, Whiteout


def clamp(tree: Tree, latest_ns: int) -> Tree:
    """The same Tree, lazily, with no time later than `latest_ns`; hard links stay hard links."""
    return _Clamp(latest_ns).directory(tree)


class _Clamp:
    """`_links` maps a node to what became of it, and keeps the node alive so that its id stays its own."""

    def __init__(self, latest_ns: int) -> None:
        self._latest_ns = latest_ns
        self._links: dict[int, tuple[Node, Inode]] = {}

    def directory(self, source: Directory) -> Directory:
        return Directory(
            meta=self._meta(source.meta),
            load=lambda: {name: self._node(node) for name, node in source.children.items()},
            opaque=source.opaque,
        )

    def _node(self, node: Node) -> Node:
        match node:
            case Directory():
                return self.directory(node)
            case Whiteout():
                return node
            case File() | Symlink() | Device() | Fifo() | Socket():
                known = self._links.get(id(node))
                if known is None:
                    known = self._links[id(node)] = (node, replace(node, meta=self._meta(node.meta)))
                return known[1]
            case _:
                assert_never(node)

    def _meta(self, meta: Meta) -> Meta:
        return meta if meta.mtime_ns <= self._latest_ns else replace(meta, mtime_ns=self._latest_ns)
