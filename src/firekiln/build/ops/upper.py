"""A file system that is being changed: a Tree below that nobody touches, and what was made of it.

The view is a Tree itself, so `rootfs.lookup` finds its way in it. A directory that is about to change is copied first
(its list of names, not what they lead to), as overlayfs copies up; `diff` then tells what overlayfs would find on its
upper side. As there, a directory whose names changed bears the time of the change (fontconfig, for one, looks for new
fonts only where a directory's mtime tells it to), and one that is only on the way to a change its own.
"""

from __future__ import annotations

from dataclasses import replace

from firekiln.build.ops.owner import Ids
from firekiln.errors import BuildError
from firekiln.rootfs import lookup
from firekiln.rootfs.tree import Directory, Meta, Tree, Whiteout
from firekiln.values import dataclass

_SETGID = 0o2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Metadata of a directory that has no source. With `owner` None nobody chose one: root, as mkdir(2) has it."""

    mode: int
    owner: Ids | None
    mtime_ns: int

    def below(self, parent: Meta) -> Meta:
        """What mkdir(2) makes of it: a directory below a setgid one is setgid, and of that one's group unless owned."""
        inherits = parent.mode & _SETGID
        owner = self.owner or Ids(uid=0, gid=parent.gid if inherits else 0)
        return Meta(mode=self.mode | inherits, uid=owner.uid, gid=owner.gid, mtime_ns=self.mtime_ns)


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

    def make_all(self, path: bytes, made: Made) -> Upper:
        """The directory at `path` (links resolved already), made with all that is missing above it, each as `made`.

        BuildError where something else than a directory is in the way. What exists keeps its metadata.
        """
        upper = self.root
        names = [name for name in path.split(b"/") if name]
        for depth, name in enumerate(names, start=1):
            below = self.directory(upper, name)
            if below is None and name in upper.children:
                raise BuildError(f"mkdir {shown(b'/'.join(names[:depth]))}: not a directory")
            upper = below or self.make(upper, name, made.below(upper.meta))
        return upper

    def diff(self, *, now_ns: int | None = None) -> Tree:
        """The upper side: new and changed nodes, whiteouts, and the directories on the way to them.

        `now_ns` is the mtime of directories of the lower side whose names changed, unless they were given another;
        with None they keep theirs.
        """
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
            if now_ns is not None and upper.lower and upper.meta is upper.lower.meta and _renamed(into, upper.lower):
                into.meta = replace(into.meta, mtime_ns=now_ns)
        for into, name, upper, part in reversed(changed):  # children come after their parents in the list
            if upper.lower and upper.meta == upper.lower.meta and not part.children:
                del into.children[name]
        return result


def _renamed(upper: Directory, lower: Directory) -> bool:
    """Whether a name of `lower` came, went or was taken over: what a kernel notes in the directory's mtime."""
    for name, node in upper.children.items():
        below = lower.children.get(name)
        if not isinstance(node, Directory) or node.opaque or not isinstance(below, Directory):
            return True
    return False


def shown(path: bytes) -> str:
    """A path of a Tree as messages show it."""
    return "/" + path.decode(errors="backslashreplace")
