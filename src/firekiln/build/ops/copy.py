"""COPY, and ADD of what is no archive: nodes of one Tree placed in another, by the rules of fsutil's copy.

Those rules, where they are not obvious:
- A directory's content is copied into the destination; the directory's own mode and owner get lost, its mtime does not.
- Directories made on the way are 0755 (or what --chmod says) and root's (or --chown's), and bear the time of the run.
- A directory that exists below the destination takes the source's metadata; the destination itself keeps its own.
- Hard links stay together within one source, and each match of a wildcard is a source of its own.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import TypeAlias, assert_never

from firekiln.build.graph import Copy
from firekiln.build.ops import mode
from firekiln.build.ops.owner import Ids
from firekiln.build.ops.patterns import Filter
from firekiln.build.ops.selection import Selected, clean
from firekiln.build.ops.upper import Made, Overlay, Upper, shown
from firekiln.errors import BuildError
from firekiln.rootfs.tree import Device, Directory, Fifo, File, Inode, Meta, Socket, Symlink, Whiteout
from firekiln.values import dataclass

_Leaf: TypeAlias = File | Symlink | Device | Fifo | Socket


class _Attributes:
    """The metadata that one action gives: --chown's and --chmod's, or the source's own."""

    def __init__(self, action: Copy, owner: Ids | None, now_ns: int) -> None:
        self._owner = owner
        self._mode = None if action.mode is None else mode.parse(action.mode)
        made = 0o755 if self._mode is None else self._mode(0o755, True)
        self.made = Made(mode=made, owner=owner, mtime_ns=now_ns)

    def of(self, node: Inode) -> Meta:
        meta = self._owned(node.meta)
        if self._mode is None or isinstance(node, Symlink):
            return meta
        return replace(meta, mode=self._mode(meta.mode, isinstance(node, Directory)))

    def _owned(self, meta: Meta) -> Meta:
        return meta if self._owner is None else replace(meta, uid=self._owner.uid, gid=self._owner.gid)


@dataclass(slots=True, kw_only=True)
class _Target:
    """A directory of the destination that a directory of the source goes to; made when something is to lie in it.

    (With include patterns a directory that does not match itself is made only where something in it does.)
    """

    path: bytes
    source: Directory
    above: _Target | None = None
    upper: Upper | None = None


def copy(action: Copy, selected: Selected, overlay: Overlay, *, owner: Ids | None, now_ns: int) -> None:
    """Carry out `action` for one of its sources. BuildError where the destination can't take it."""
    attributes = _Attributes(action, owner, now_ns)
    path = _destination(action, selected, overlay, attributes)
    node = selected.node
    copier = _Copier(action, overlay, attributes)
    if isinstance(node, Directory):
        copier.directory(node, path)
    else:
        parent, _, name = path.rpartition(b"/")
        copier.place(node, overlay.make_all(parent, attributes.made), name, path)


def _destination(action: Copy, selected: Selected, overlay: Overlay, attributes: _Attributes) -> bytes:
    """Where the node is to lie; the directories above it exist afterwards."""
    if not action.create_dest_path:
        parent = posixpath.dirname(overlay.resolve(clean(action.dest)).path)
        if overlay.resolve(parent).node is None:
            raise BuildError(f"failed to stat {action.dest}: no such file or directory")
    head, _, tail = action.dest.rpartition("/")
    above = action.dest if tail in {"", "."} else head
    overlay.make_all(overlay.resolve(clean(above)).path, attributes.made)
    found = overlay.resolve(clean(action.dest))
    path = found.path
    from_directory = isinstance(selected.node, Directory)
    if from_directory:
        into = found.node is not None and not action.dir_copy_contents
    else:
        into = isinstance(found.node, Directory)
    if into and selected.name:
        path = _join(path, selected.name)
    made = path if from_directory and action.dir_copy_contents and found.node is None else posixpath.dirname(path)
    overlay.make_all(made, attributes.made)
    return path


class _Copier:
    """Copies one source. `_links` are the files copied so far, by the identity of their source."""

    def __init__(self, action: Copy, overlay: Overlay, attributes: _Attributes) -> None:
        self._overlay = overlay
        self._attributes = attributes
        self._filter = Filter(action)
        self._links: dict[int, File] = {}

    def directory(self, source: Directory, path: bytes) -> None:
        """Copy the content of `source` to the directory at `path`, made if need be."""
        root = _Target(path=path, source=source)
        self._make_root(root)
        pending = [(root, b"")]
        while pending:
            target, prefix = pending.pop()
            for name in sorted(target.source.children):
                node = target.source.children[name]
                below = _join(prefix, name)
                if isinstance(node, Directory):
                    inner = _Target(path=_join(target.path, name), source=node, above=target)
                    if self._filter.takes(below):
                        self._make(target)
                        self._make(inner, whole=True)
                    if self._filter.takes_below(below):
                        pending.append((inner, below))
                elif not isinstance(node, Whiteout) and self._filter.takes(below):
                    self.place(node, self._make(target), name, _join(target.path, name))

    def place(self, node: _Leaf, parent: Upper, name: bytes, path: bytes) -> None:
        """Put a node other than a directory under `name`, which may be taken by anything but a directory."""
        if isinstance(parent.children.get(name), Directory):
            raise BuildError(f"cannot replace to directory {shown(path)} with file")
        if isinstance(node, File):
            known = self._links.get(id(node))
            if known is None:
                known = self._links[id(node)] = File(
                    meta=self._attributes.of(node), size=node.size, extents=node.extents
                )
            parent.children[name] = known
        else:
            parent.children[name] = _again(node, self._attributes.of(node))

    def _make_root(self, target: _Target) -> None:
        """The destination itself: one that exists keeps its metadata, but for the time, which becomes the source's."""
        if not target.path:
            target.upper = self._overlay.root
        else:
            parent, _, name = target.path.rpartition(b"/")
            above = self._overlay.make_all(parent, self._attributes.made)
            target.upper = self._existing(above, name, target)
            if target.upper is None:
                target.upper = self._overlay.make(above, name, self._attributes.of(target.source))
        target.upper.meta = replace(target.upper.meta, mtime_ns=target.source.meta.mtime_ns)

    def _make(self, target: _Target, *, whole: bool = False) -> Upper:
        """The directory `target`, made if it is not there. One that is takes the mode of its source, or `whole` all."""
        if target.upper is None:
            assert target.above is not None
            above = self._make(target.above)
            name = target.path.rpartition(b"/")[2]
            target.upper = self._existing(above, name, target)
            if target.upper is None:
                target.upper = self._overlay.make(above, name, self._attributes.of(target.source))
            elif whole:
                meta = self._attributes.of(target.source)
                xattrs = dict(target.upper.meta.xattrs) | dict(meta.xattrs)
                target.upper.meta = replace(meta, xattrs=tuple(sorted(xattrs.items())))
            else:
                target.upper.meta = replace(target.upper.meta, mode=target.source.meta.mode)
        return target.upper

    def _existing(self, above: Upper, name: bytes, target: _Target) -> Upper | None:
        found = self._overlay.directory(above, name)
        if found is None and name in above.children:
            raise BuildError(f"cannot copy to non-directory: {shown(target.path)}")
        return found


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _again(node: Symlink | Device | Fifo | Socket, meta: Meta) -> Symlink | Device | Fifo | Socket:
    """A node like `node`, with an identity of its own."""
    match node:
        case Symlink():
            return Symlink(meta=meta, target=node.target)
        case Device():
            return Device(meta=meta, block=node.block, major=node.major, minor=node.minor)
        case Fifo():
            return Fifo(meta=meta)
        case Socket():
            return Socket(meta=meta)
        case _:
            assert_never(node)
