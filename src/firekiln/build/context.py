"""The build context: a folder of the host as a Tree, without what `.dockerignore` leaves out.

As BuildKit's client sends it: everything belongs to root and bears no xattrs, so that a build does not depend on who
runs it; sockets are left out. Links are links: what lies outside the folder can't be reached through them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from firekiln.dockerfile.ignore import IgnorePatterns, read_ignore
from firekiln.errors import BuildError
from firekiln.rootfs import directory
from firekiln.rootfs.tree import Device, Directory, Fifo, File, Inode, Meta, Node, Socket, Symlink, Tree, Whiteout
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalContext:
    """`path` is the folder; `ignore` is the text of its ignore file, `ignore_file` that file's name for messages."""

    path: Path
    ignore: str = ""
    ignore_file: str = ".dockerignore"

    def tree(self) -> Tree:
        """The context, lazily: a directory is read when it is first looked into, a file when its content is.

        BuildError where there is no such folder, DockerfileError where a pattern is malformed; RootfsError, when a part
        is looked at, where it can't be read or was replaced meanwhile.
        """
        patterns = read_ignore(self.ignore, file=self.ignore_file)
        if not self.path.is_dir():
            raise BuildError(f'the build context "{self.path}" is no directory')
        return without_ignored(directory.read(self.path), patterns)


def without_ignored(tree: Tree, patterns: IgnorePatterns) -> Tree:
    """`tree` as a context: ignored nodes and sockets left out, owners 0:0, no xattrs.

    A directory that is left out is there all the same where a `!` pattern takes in something below it.
    """
    return _Context(patterns).directory(tree, "")


class _Context:
    """`_links` keeps hard links together: the same file is found under several names."""

    def __init__(self, patterns: IgnorePatterns) -> None:
        self._patterns = patterns
        self._links: dict[int, tuple[Node, Inode]] = {}

    def directory(self, source: Directory, path: str) -> Directory:
        return Directory(meta=_meta(source.meta), load=lambda: self._children(source, path))

    def _children(self, source: Directory, path: str) -> dict[bytes, Node]:
        children: dict[bytes, Node] = {}
        for name, node in source.children.items():
            below = path + name.decode(errors="surrogateescape")
            taken = self._take(node, below)
            if taken is not None:
                children[name] = taken
        return children

    def _take(self, node: Node, path: str) -> Inode | None:
        if isinstance(node, (Socket, Whiteout)):
            return None
        ignored = bool(self._patterns) and self._patterns.matches(path)
        if isinstance(node, Directory):
            if ignored and not self._patterns.may_match_under(path):
                return None
            taken = self.directory(node, path + "/")
            return taken if not ignored or taken.children else None
        return None if ignored else self._link(node)

    def _link(self, node: File | Symlink | Device | Fifo) -> Inode:
        known = self._links.get(id(node))
        if known is None:
            known = self._links[id(node)] = (node, replace(node, meta=_meta(node.meta)))
        return known[1]


def _meta(meta: Meta) -> Meta:
    return Meta(mode=meta.mode, mtime_ns=meta.mtime_ns)
