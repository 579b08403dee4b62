"""A file system that is being changed: a Tree below that nobody touches, and what was made of it.

The view is a Tree itself, so `rootfs.lookup` finds its way in it. A directory that is about to change is copied first
(its list of names, not what they lead to), as overlayfs copies up; `diff` then tells what overlayfs would find on its
upper side. A directory on the way to a change bears the lower one's metadata, mtime included: unlike a kernel's upper
side, so that a layer does not depend on the second it was made in.
"""

from __future__ import annotations

from firekiln.errors import BuildError
from firekiln.rootfs import lookup
from firekiln.rootfs.tree import Directory, Meta, Tree, Whiteout


class Upper(Directory):
    """A directory of an overlay's upper side: its `children` may be changed. `lower` is what it was copied from."""

    __slots__ = ("lower",)

    def __init__(self, *, meta: Meta, lower: Directory | None = None) -> None:
        super().__init__(meta=meta, children=dict(lower.children) if lower else {})
        self.lower = lower


class Overlay:
    """Changes on `base`. Paths are those of `rootfs.lookup`; messages show them with a slash in front."""

    def __init__(self, base: Tree) -> None:
        self.root = Upper(meta=base.meta, lower=base)

    def resolve(self, path: bytes, *, follow_last: bool = True) -> lookup.Resolved:
        return lookup.resolve(self.root, path, follow_last=follow_last)

    def directory(self, parent: Upper, name: bytes) -> Upper | None:
        """The directory `name` of `parent`, ready to be changed; None where that is nothing or something else."""
        node = parent.children.get(name)
        if isinstance(node, Upper) or not isinstance(node, Directory):
            return node if isinstance(node, Upper) else None
        upper = Upper(meta=node.meta, lower=node)
        parent.children[name] = upper
        return upper

    def make(self, parent: Upper, name: bytes, meta: Meta) -> Upper:
        """A new, empty directory under `name`, whatever was there before."""
        upper = Upper(meta=meta)
        parent.children[name] = upper
        return upper

    def make_all(self, path: bytes, meta: Meta) -> Upper:
        """The directory at `path` (links resolved already), made with all that is missing above it, each with `meta`.

        BuildError where something else than a directory is in the way. What exists keeps its metadata.
        """
        upper = self.root
        names = [name for name in path.split(b"/") if name]
        for depth, name in enumerate(names, start=1):
            below = self.directory(upper, name)
            if below is None and name in upper.children:
                raise BuildError(f"mkdir {shown(b'/'.join(names[:depth]))}: not a directory")
            upper = below or self.make(upper, name, meta)
        return upper

    def diff(self) -> Tree:
        """The upper side: new and changed nodes, whiteouts, and the directories on the way to them."""
        result = Directory(meta=self.root.meta)
        pending = [(self.root, result)]
        changed: list[tuple[Directory, bytes, Upper, Directory]] = []
        while pending:
            upper, into = pending.pop()
            lower = upper.lower.children if upper.lower else {}
            into.children.update((name, Whiteout()) for name in lower.keys() - upper.children.keys())
            for name, node in upper.children.items():
                if isinstance(node, Upper):
                    opaque = node.lower is None and isinstance(lower.get(name), Directory)
                    part = Directory(meta=node.meta, opaque=opaque)
                    into.children[name] = part
                    pending.append((node, part))
                    changed.append((into, name, node, part))
                elif lower.get(name) is not node:
                    into.children[name] = node
        for into, name, upper, part in reversed(changed):  # children come after their parents in the list
            if upper.lower and upper.meta == upper.lower.meta and not part.children:
                del into.children[name]
        return result


def shown(path: bytes) -> str:
    """A path of a Tree as messages show it."""
    return "/" + path.decode(errors="backslashreplace")
