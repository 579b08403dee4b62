"""What the source of a COPY or ADD leads to: one node, or those that a wildcard matches.

The rules are those of BuildKit's content hash and of fsutil's `ResolveWildcards`: paths stay within the input's root,
a path without a wildcard must exist, a wildcard may match nothing.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Final

from firekiln.build.graph import Copy
from firekiln.build.ops import glob
from firekiln.build.ops.upper import shown
from firekiln.errors import BuildError
from firekiln.rootfs import lookup
from firekiln.rootfs.tree import Directory, Inode, Meta, Tree, Whiteout
from firekiln.values import dataclass

EMPTY: Final = Directory(meta=Meta(mode=0o755))
"""What `scratch` is as an input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """A node to be copied, links followed where the action says so. `name` is the last one of the path that led here.

    It is what the node will be called in a directory: a link's own name, not its target's; empty for the root.
    """

    name: bytes
    node: Inode


def select(action: Copy, tree: Tree) -> list[Selected]:
    """Everything that `action` copies from its input `tree`, in the order of names.

    BuildError where a path is not there (`"/x": not found`) or a pattern is malformed.
    """
    for path in action.required_paths:
        find(tree, clean(path), follow=True)
    source = clean(action.src)
    if action.allow_wildcard and glob.has_wildcard(action.src):
        paths = _matches(tree, source, follow=action.follow_symlink)
        if not paths and not action.allow_empty_wildcard:
            raise BuildError(f"{action.src} not found")
    else:
        paths = [source]
    return [
        Selected(name=posixpath.basename(path), node=find(tree, path, follow=action.follow_symlink)) for path in paths
    ]


def clean(path: str) -> bytes:
    """A path of the graph as a path of a Tree, `.` and `..` taken away without looking at links, as Go's Clean."""
    return posixpath.normpath("/" + path.lstrip("/")).encode(errors="surrogateescape")[1:]


def find(tree: Tree, path: bytes, *, follow: bool) -> Inode:
    """The node at `path`. BuildError where there is none."""
    node = lookup.resolve(tree, path, follow_last=follow).node
    if node is None or isinstance(node, Whiteout):
        raise BuildError(f'"{shown(path)}": not found')
    return node


def _matches(tree: Tree, source: bytes, *, follow: bool) -> list[bytes]:
    """Paths that the pattern `source` matches. Its part without wildcards must lead to something."""
    names = source.decode(errors="surrogateescape").split("/")
    fixed = next(index for index, name in enumerate(names) if glob.has_wildcard(name))
    path = "/".join(names[:fixed]).encode(errors="surrogateescape")
    start = lookup.resolve(tree, path, follow_last=follow)
    if start.node is None:
        raise BuildError(f"lstat {shown(path)}: no such file or directory")
    try:
        patterns = [glob.compile_name(name) for name in names[fixed:]]
    except ValueError as error:
        raise BuildError(f'"{shown(source)}": {error}') from None
    return list(_walk(start.node, start.path, patterns))


def _walk(node: object, path: bytes, patterns: list[re.Pattern[str]]) -> Iterator[bytes]:
    """Paths below `node`, one pattern a level: nothing that Go's Match knows reaches across a slash."""
    if not isinstance(node, Directory):
        return
    for name in sorted(node.children):
        if patterns[0].fullmatch(name.decode(errors="surrogateescape")):
            below = path + b"/" + name if path else name
            if patterns[1:]:
                yield from _walk(node.children[name], below, patterns[1:])
            else:
                yield below
