"""COPY, ADD and WORKDIR on Trees: `FileOp` carried out without a mount, without root and without the host's links.

Field by field BuildKit's file operations (`solver/llbsolver/file`), oddities included. Where Docker's documentation
says something else, this is what users get.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from firekiln.build.graph import Copy, FileOp, InlineFile, Mkdir
from firekiln.build.ops.copy import copy
from firekiln.build.ops.owner import Ids, ids
from firekiln.build.ops.selection import EMPTY, Selected, clean, select
from firekiln.build.ops.upper import Made, Overlay
from firekiln.rootfs.tree import Directory, File, Meta, Tree


def apply(
    op: FileOp, base: Tree | None, inputs: Sequence[Tree | None], *, now_ns: int, folder: Path | None = None
) -> Tree:
    """The layer that `op` makes on `base`: new and changed nodes, whiteouts, opaque directories.

    `base` and `inputs` are merged Trees without whiteouts; None is `scratch`. `inputs` are those of the vertex: a
    `Copy.source` of 1 means `inputs[1]`, and `inputs[0]`, the base again, is not looked at. With `op.link` the base
    isn't either. `now_ns` is the time that directories bear which have no source, or
    whose names changed. Archives are unpacked into unnamed files
    in `folder` (None: the host's temporary folder), which live as long as the Tree.

    BuildError where a source is missing, the destination can't take it, or an archive is damaged.
    """
    below = None if op.link else base
    root = Directory(meta=Meta(mode=0o755, mtime_ns=now_ns))
    overlay = Overlay(root if below is None else below)
    for number, action in enumerate(op.actions):
        known = None if below is None and number == 0 else overlay.root
        owner = None if action.owner is None else ids(action.owner, known)
        match action:
            case Mkdir():
                _mkdir(action, overlay, owner, now_ns)
            case Copy():
                for selected in _sources(action, inputs, now_ns=now_ns):
                    made = Made(mode=0o755, owner=owner, mtime_ns=now_ns)
                    if not action.unpack or not _unpack(action, selected, overlay, made, folder):
                        copy(action, selected, overlay, owner=owner, now_ns=now_ns)
            case _:
                assert_never(action)
    return overlay.diff(now_ns=now_ns)


def _unpack(action: Copy, selected: Selected, overlay: Overlay, made: Made, folder: Path | None) -> bool:
    """Unpack what ADD was given; False where it is no archive."""
    from firekiln.build.ops.archive import open_archive  # noqa: PLC0415 - decompressors: COPY needs none
    from firekiln.build.ops.unpack import unpack  # noqa: PLC0415 - as above

    archive = open_archive(selected.node, folder) if isinstance(selected.node, File) else None
    if archive is not None:
        unpack(archive, overlay, overlay.resolve(clean(action.dest)).path, made)
    return archive is not None


def _sources(action: Copy, inputs: Sequence[Tree | None], *, now_ns: int) -> list[Selected]:
    """What `action` copies. An inline file bears the time of the run."""
    if isinstance(action.source, InlineFile):
        meta = Meta(mode=action.source.mode, mtime_ns=now_ns)
        name = action.source.name.encode(errors="surrogateescape")
        return [Selected(name=name, node=File.of(action.source.data, meta))]
    tree = inputs[action.source]
    return select(action, EMPTY if tree is None else tree)


def _mkdir(action: Mkdir, overlay: Overlay, owner: Ids | None, now_ns: int) -> None:
    made = Made(mode=action.mode & 0o777, owner=owner, mtime_ns=now_ns)
    overlay.make_all(overlay.resolve(clean(action.path)).path, made)
