"""Digests of content, for cache keys: what an operation reads, and nothing else.

In: names, types, permission bits, owners, link targets, device numbers, xattrs, the bytes of files, and which names
are hard links of one file. Out: all times. (A local context's owners are out because its Tree has none.) `user.*` of a
context is copied, but a change of it alone is not noticed: so BuildKit, whose client compares no xattrs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import assert_never

from firekiln.build.graph import Copy
from firekiln.build.ops.filedigest import FileDigests
from firekiln.build.ops.filedigest import content_digest as content_of
from firekiln.build.ops.patterns import Filter
from firekiln.build.ops.selection import EMPTY, clean, find, select
from firekiln.build.ops.upper import shown
from firekiln.errors import BuildError
from firekiln.rootfs.content import ShortSourceError, Sources
from firekiln.rootfs.tree import (
    Device,
    Directory,
    Fifo,
    File,
    Meta,
    Node,
    Socket,
    Symlink,
    Tree,
    Whiteout,
    walk,
)


def copy_key(action: Copy, tree: Tree | None, context: FileDigests | None = None) -> str:
    """`sha256:…` of all that `action` would copy from its input (None: `scratch`); the action itself is not in it.

    `context` remembers files where the input is a build context. BuildError where a source is missing:
    as with BuildKit, before anything runs.
    """
    entries: list[tuple[bytes, Node]] = []
    for selected in select(action, EMPTY if tree is None else tree):
        node = selected.node
        if isinstance(node, Directory):
            # Where only its content is copied, its own mode and owner reach nobody.
            own = EMPTY if action.dir_copy_contents else node
            entries += [(selected.name, own), *((b"/" + path, below) for path, below in _read(action, node))]
        else:
            entries.append((selected.name, node))
    return _digest(entries, context)


def path_key(path: str, tree: Tree | None, context: FileDigests | None = None) -> str:
    """`sha256:…` of what lies at `path` of an input, as a mount's source. BuildError where nothing does."""
    node = find(EMPTY if tree is None else tree, clean(path), follow=True)
    return _digest([(b"", node), *(walk(node) if isinstance(node, Directory) else ())], context)


def content_digest(tree: Tree) -> str:
    """`sha256:…` of a whole Tree, the root's own metadata included."""
    return _digest([(b"", tree), *walk(tree)])


def _read(action: Copy, directory: Directory) -> Iterator[tuple[bytes, Node]]:
    """What `action` reads below a directory; one that lets nothing through is as if it were not there."""
    chosen = Filter(action)
    if chosen.takes_all:
        yield from walk(directory)
        return
    above: list[tuple[bytes, Node]] = []
    pending = [(path, node) for path, node in _entries(directory, b"")]
    while pending:
        path, node = pending.pop()
        while above and not path.startswith(above[-1][0] + b"/"):
            above.pop()
        if chosen.takes(path):
            yield from above
            above.clear()
            yield path, node
        elif isinstance(node, Directory):
            above.append((path, node))
        if isinstance(node, Directory) and chosen.takes_below(path):
            pending += _entries(node, path + b"/")


def _entries(directory: Directory, prefix: bytes) -> list[tuple[bytes, Node]]:
    """Children by name, the last first: the order of a stack."""
    return [(prefix + name, directory.children[name]) for name in sorted(directory.children, reverse=True)]


def _digest(entries: Iterable[tuple[bytes, Node]], context: FileDigests | None = None) -> str:
    if context is not None:
        entries = list(entries)
        context.read_ahead(node for _, node in entries if isinstance(node, File))
    digest = hashlib.sha256()
    numbers: dict[int, int] = {}
    with Sources() as opened:
        for path, node in entries:
            known = numbers.get(id(node))
            if known is None:
                numbers[id(node)] = len(numbers)
            try:
                detail = _detail(node, opened, context) if known is None else b"=%d" % known
            except (OSError, ShortSourceError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it has become shorter"
                raise BuildError(f"cannot read {shown(path.lstrip(b'/'))}: {reason}") from None
            digest.update(b"%d:%s%d:%s" % (len(path), path, len(detail), detail))
    return f"sha256:{digest.hexdigest()}"


def _detail(  # noqa: PLR0911 - one case for each kind of node
    node: Node, opened: Sources, context: FileDigests | None
) -> bytes:
    if isinstance(node, Whiteout):
        return b"whiteout"
    meta = _meta(node.meta, user=context is None)
    match node:
        case File():
            content = content_of(node, opened) if context is None else context.content(node, opened)
            return b"file" + meta + content
        case Symlink():
            return b"link" + meta + node.target
        case Device():
            return b"node%s %d %d %d" % (meta, node.block, node.major, node.minor)
        case Directory():
            return b"dir" + meta + b"opaque" * node.opaque
        case Fifo():
            return b"fifo" + meta
        case Socket():
            return b"sock" + meta
        case _:
            assert_never(node)


def _meta(meta: Meta, *, user: bool) -> bytes:
    xattrs = b"".join(
        b"%d:%s%d:%s" % (len(name), name, len(value), value)
        for name, value in meta.xattrs
        if user or not name.startswith(b"user.")
    )
    return b" %o %d %d %d:%s" % (meta.mode, meta.uid, meta.gid, len(xattrs), xattrs)
