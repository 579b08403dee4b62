"""A step's mounts as its machine gets them: content on a drive, secrets in memory, caches under what it changes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import assert_never

from firekiln.errors import SandboxError
from firekiln.machine.isolation import cache
from firekiln.machine.isolation.document import DataMount, GuestMount, MemoryMount, PartMount
from firekiln.rootfs import erofs, lookup
from firekiln.rootfs.merge import merge
from firekiln.rootfs.tree import Directory, File, Meta, Node, Tree
from firekiln.sandbox.step import (
    FileMount,
    FolderMount,
    LayersMount,
    ScratchMount,
    SocketMount,
    Step,
    StepMount,
    TreeMount,
)
from firekiln.sandbox.surroundings import CA_BUNDLE, hosts
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounts:
    """`parts`, to be attached as one file system, and the mounts in the order of mounting.

    `caches` are the folders of caches by the names of their upper sides on the scratch drive.
    """

    parts: Tree | None
    mounts: tuple[GuestMount, ...]
    caches: dict[str, Path]


@dataclass(slots=True, kw_only=True)
class _Gathered:
    """What the parts hold so far, by name; `number` is that of their file system."""

    number: int
    parts: dict[bytes, Node] = field(default_factory=dict)
    caches: dict[str, Path] = field(default_factory=dict)

    def part(self, node: Node) -> str:
        name = str(len(self.parts))
        self.parts[name.encode()] = node
        return name


def mounts_of(step: Step, *, resolv_conf: str, number: int) -> Mounts:
    """The mounts of `step`; `number` is the one by which its parts will be attached.

    SandboxError where a source is not there, or a machine cannot have such a mount.
    """
    gathered = _Gathered(number=number)
    files = [
        DataMount(target="/etc/resolv.conf", data=resolv_conf.encode()),
        DataMount(target="/etc/hosts", data=hosts(step).encode(errors="surrogateescape")),
    ]
    made = [_made(mount, gathered) for mount in step.mounts]
    if step.ca_bundle is not None:
        made.append(DataMount(target=CA_BUNDLE, data=step.ca_bundle.read_bytes()))
    return Mounts(
        parts=Directory(meta=Meta(mode=0o755), children=gathered.parts) if gathered.parts else None,
        mounts=(*files, *sorted(made, key=_depth)),
        caches=gathered.caches,
    )


def lower(layers: Sequence[Path]) -> Tree:
    """What a stack of layers shows, lazily."""
    return merge([erofs.read(layer) for layer in layers]) if layers else Directory(meta=Meta(mode=0o755))


def _depth(mount: GuestMount) -> int:
    return len([part for part in mount.target.split("/") if part])


def _made(mount: StepMount, gathered: _Gathered) -> GuestMount:
    match mount:
        case LayersMount(target=target, layers=layers, source=source, readonly=readonly):
            return _bound(target, lower(layers), source, gathered, readonly=readonly)
        case TreeMount(target=target, tree=tree, source=source, readonly=readonly):
            return _bound(target, tree, source, gathered, readonly=readonly)
        case FolderMount():
            return _cache(mount, gathered)
        case ScratchMount(target=target, size=size):
            return MemoryMount(target=target, size=size)
        case FileMount(target=target, data=data, mode=mode, uid=uid, gid=gid):
            return DataMount(target=target, data=data, mode=mode, uid=uid, gid=gid)
        case SocketMount():
            raise SandboxError(
                "RUN --mount=type=ssh cannot be used in a VM: the agent's socket is the host's",
                hint="build this stage with --isolation=process, or pass a key as a secret",
            )
        case _ as never:
            assert_never(never)


def _bound(target: str, tree: Tree, source: str, gathered: _Gathered, *, readonly: bool) -> GuestMount:
    node = _resolved(tree, source).node
    match node:
        case Directory():
            name = gathered.part(node)
            return PartMount(target=target, part=gathered.number, name=name, upper=None if readonly else f"mount{name}")
        case File(meta=meta) if not readonly:
            mode = meta.mode & 0o7777
            return DataMount(target=target, data=node.read(), mode=mode, uid=meta.uid, gid=meta.gid, readonly=False)
        case None:
            raise _not_found(source)
        case _:
            return PartMount(target=target, part=gathered.number, name=gathered.part(node))


def _cache(mount: FolderMount, gathered: _Gathered) -> PartMount:
    """Several mounts may be of one cache: they share its upper side, and see what each writes."""
    tree = cache.read(mount.folder)
    upper = next((name for name, folder in gathered.caches.items() if folder == mount.folder), None)
    if upper is None:
        upper = f"cache{gathered.part(tree)}"
        gathered.caches[upper] = mount.folder
    found = _resolved(tree, mount.source)
    if found.node is None:
        raise _not_found(mount.source)
    return PartMount(
        target=mount.target,
        part=gathered.number,
        name=upper.removeprefix("cache"),
        upper=upper,
        source=os.fsdecode(found.path),
        readonly=mount.readonly,
    )


def _resolved(tree: Tree, source: str) -> lookup.Resolved:
    return lookup.resolve(tree, os.fsencode(source))


def _not_found(source: str) -> SandboxError:
    return SandboxError(f'failed to compute the source of a mount: "{source}": not found')
