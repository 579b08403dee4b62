"""Two Trees compared node by node: what every writer is held to, through our readers and through the kernel's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from firekiln.rootfs.tree import Device, Directory, Fifo, File, Meta, Node, Socket, Symlink, Tree, Whiteout, walk

_BLOCK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name of a Tree as text. `link` is the first path, in the order of `walk`, that leads to the same node."""

    path: bytes
    kind: str
    meta: Meta | None
    link: bytes
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.path!r}: {self.kind} {self.detail} {self.meta} first at {self.link!r}"


def describe(tree: Tree) -> list[Entry]:
    """Every node, the root first. Two Trees are equal where these are: holes and zeros are the same content."""
    first: dict[int, bytes] = {}
    entries = []
    for path, node in ((b"", tree), *walk(tree)):
        meta = None if isinstance(node, Whiteout) else node.meta
        link = path if isinstance(node, Whiteout) else first.setdefault(id(node), path)
        detail = _detail(node) if link == path else ""
        entries.append(Entry(path=path, kind=type(node).__name__, meta=meta, link=link, detail=detail))
    return entries


def equal(left: Tree, right: Tree) -> bool:
    return describe(left) == describe(right)


def differences(left: Tree, right: Tree) -> Iterator[str]:
    """One line for each path that differs; nothing where the Trees are equal."""
    ours = {entry.path: entry for entry in describe(left)}
    theirs = {entry.path: entry for entry in describe(right)}
    for path in sorted(ours.keys() | theirs.keys()):
        if ours.get(path) != theirs.get(path):
            yield f"{ours.get(path, 'nothing')} | {theirs.get(path, 'nothing')}"


def _detail(node: Node) -> str:
    match node:
        case File():
            return f"{node.size} {content_digest(node)}"
        case Symlink():
            return repr(node.target)
        case Device():
            return f"{'b' if node.block else 'c'} {node.major}:{node.minor}"
        case Directory():
            return "opaque" if node.opaque else ""
        case Fifo() | Socket() | Whiteout():
            return ""
        case _:
            assert_never(node)


def content_digest(file: File) -> str:
    """A digest of the content that costs as much as the data that is there: blocks of zeros do not count."""
    digest = hashlib.sha256()
    index, block = -1, bytearray(_BLOCK)
    for position, data in _pieces(file):
        if position // _BLOCK != index:
            if any(block):
                digest.update(index.to_bytes(8, "little") + block)
            index, block = position // _BLOCK, bytearray(_BLOCK)
        at = position % _BLOCK
        block[at : at + len(data)] = data
    if any(block):
        digest.update(index.to_bytes(8, "little") + block)
    return digest.hexdigest()[:16]


def _pieces(file: File) -> Iterator[tuple[int, memoryview]]:
    """The data of `file` with their positions, cut where a block of the file ends."""
    for extent in file.extents:
        position = extent.start
        for chunk in File(meta=file.meta, size=extent.length, extents=(extent._replace(start=0),)).chunks():
            view = memoryview(chunk)
            while view:
                piece = view[: _BLOCK - position % _BLOCK]
                yield position, piece
                position += len(piece)
                view = view[len(piece) :]
