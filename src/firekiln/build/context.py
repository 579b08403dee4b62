"""Build contexts as Trees, without what `.dockerignore` leaves out.

A folder of the host is what BuildKit's client sends of it: everything belongs to root, so that a build does not depend
on who runs it; of xattrs there are capabilities and `user.*`, for the others speak of the host; sockets are left out.
The members of an archive keep the owners that it names. Links are links: what lies outside can't be reached through
them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from firekiln.dockerfile.ignore import IgnorePatterns, read_ignore
from firekiln.errors import BuildError
from firekiln.rootfs import directory
from firekiln.rootfs.tree import Device, Directory, Fifo, File, Inode, Meta, Node, Socket, Symlink, Tree, Whiteout
from firekiln.values import dataclass

_CAPABILITY = b"security.capability"
_USER = b"user."


class Context(Protocol):
    """What COPY and ADD read."""

    def tree(self) -> Tree:
        """The files. BuildError or RootfsError where they can't be had."""
        ...


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
        return without_ignored(directory.read(self.path, xattrs=True), patterns)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeContext:
    """A context that is at hand already: an archive, a checkout, or nothing at all."""

    files: Tree
    ignore: str = ""
    ignore_file: str = ".dockerignore"

    def tree(self) -> Tree:
        """DockerfileError where a pattern is malformed."""
        patterns = read_ignore(self.ignore, file=self.ignore_file)
        return without_ignored(self.files, patterns, owners=True) if patterns else self.files


EMPTY = TreeContext(files=Directory(meta=Meta(mode=0o755)))


def without_ignored(tree: Tree, patterns: IgnorePatterns, *, owners: bool = False) -> Tree:
    """`tree` as a context: ignored nodes and sockets left out, owners 0:0 unless `owners`, few xattrs.

    A directory that is left out is there all the same where a `!` pattern takes in something below it.
    """
    return _Context(patterns, owners=owners).directory(tree, "")


class _Context:
    """`_links` keeps hard links together: the same file is found under several names."""

    def __init__(self, patterns: IgnorePatterns, *, owners: bool) -> None:
        self._patterns = patterns
        self._owners = owners
        self._links: dict[int, tuple[Node, Inode]] = {}

    def directory(self, source: Directory, path: str) -> Directory:
        return Directory(meta=self._meta(source.meta), load=lambda: self._children(source, path))

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
            meta = self._meta(node.meta)
            # `replace` takes twice as long, and nearly all nodes are files.
            made = File(meta=meta, size=node.size, extents=node.extents) if isinstance(node, File) else None
            known = self._links[id(node)] = (node, made or replace(node, meta=meta))
        return known[1]

    def _meta(self, meta: Meta) -> Meta:
        xattrs = meta.xattrs
        if xattrs:
            xattrs = tuple(item for item in xattrs if item[0] == _CAPABILITY or item[0].startswith(_USER))
        if self._owners:
            return replace(meta, xattrs=xattrs)
        return Meta(mode=meta.mode, mtime_ns=meta.mtime_ns, xattrs=xattrs)
