"""A step's mounts, made ready in the process that runs builds: what the spawner can attach, and the request for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, assert_never

from firekiln.errors import SandboxError
from firekiln.rootfs.tree import Tree
from firekiln.sandbox import agent
from firekiln.sandbox.authority import Authority, Waiting
from firekiln.sandbox.launcher import Launcher
from firekiln.sandbox.request import Attached, Mount, Request, Stack, Tmpfs
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
from firekiln.sandbox.surroundings import CA_BUNDLE, environment, hosts
from firekiln.sandbox.upper import Area

RESOLV_CONF: Final = Path("/etc/resolv.conf")


@dataclass(slots=True)
class _Handover:
    """Mounts made so far. `held` closes them: the step has its own copies by then."""

    launcher: Launcher
    area: Area
    held: ExitStack
    waiting: Waiting
    descriptors: list[int] = field(default_factory=list)

    @property
    def _authority(self) -> Authority:
        return self.launcher.authority

    def _layers(self, paths: Sequence[Path]) -> tuple[int, ...]:
        return self.launcher.layers(paths, self.waiting)

    def attached(self, target: str, mount: int, *, source: str | None = None, readonly: bool = False) -> Attached:
        self.held.callback(os.close, mount)
        self.descriptors.append(mount)
        return Attached(target=target, descriptor=len(self.descriptors) - 1, source=source, readonly=readonly)

    def made(self, number: int, mount: StepMount) -> Mount:
        match mount:
            case LayersMount(target=target, layers=layers, source=source, readonly=readonly):
                name = None if readonly else f"mount{number}"
                if name:
                    self.area.add(name)
                return Stack(target=target, layers=self._layers(layers), source=source, upper=name)
            case TreeMount(target=target, tree=tree, source=source, readonly=readonly):
                return self.attached(target, self._of_tree(tree), source=source, readonly=readonly)
            case FolderMount(target=target, folder=folder, source=source, readonly=readonly):
                part = source if source != "/" else None
                return self.attached(
                    target, self._authority.clone(folder, readonly=readonly), source=part, readonly=readonly
                )
            case ScratchMount(target=target, size=size):
                return Tmpfs(target=target, size=size)
            case FileMount(target=target):
                return self.attached(target, self._of_file(mount), source="file", readonly=True)
            case SocketMount(target=target, socket=socket, mode=mode, uid=uid, gid=gid):
                place = self._authority.tmpfs(size=1 << 16)
                attached = self.attached(target, place, source="agent")
                self.held.enter_context(agent.forwarding(socket, place, "agent"))
                self._authority.own(place, "agent", mode=mode, uid=uid, gid=gid)
                return attached
            case _ as never:
                assert_never(never)

    def _of_tree(self, tree: Tree) -> int:
        with self._mount(self._authority.tmpfs()) as mount:
            self._authority.fill(mount, tree)
            return os.dup(mount)

    def _of_file(self, wanted: FileMount) -> int:
        with self._mount(self._authority.tmpfs(swap=False)) as mount:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open("file", flags, 0o600, dir_fd=mount), "wb") as file:
                file.write(wanted.data)
            self._authority.own(mount, "file", mode=wanted.mode, uid=wanted.uid, gid=wanted.gid)
            return os.dup(mount)

    @contextmanager
    def _mount(self, mount: int) -> Iterator[int]:
        try:
            yield mount
        finally:
            os.close(mount)


@contextmanager
def handed_over(
    step: Step, area: Area, launcher: Launcher, waiting: Waiting
) -> Iterator[tuple[Request, Sequence[int]]]:
    """The request for `step`, and the mounts that it counts, open until the context is left.

    SandboxError where something that the step asks for is not there or cannot be mounted. `waiting` is called now and
    then meanwhile, and may raise.
    """
    with ExitStack() as held:
        handover = _Handover(launcher, area, held, waiting)
        try:
            made = [handover.made(number, mount) for number, mount in enumerate(step.mounts)]
            if step.ca_bundle is not None:
                made.append(handover.attached(CA_BUNDLE, launcher.authority.clone(step.ca_bundle, readonly=True)))
        except OSError as error:
            raise SandboxError(f"cannot prepare a mount of the step: {error}") from error
        layers = launcher.layers(step.layers, waiting)
        yield _request(step, layers, tuple(made), rootless=launcher.authority.userxattr), handover.descriptors


def _request(step: Step, layers: tuple[int, ...], made: tuple[Mount, ...], *, rootless: bool) -> Request:
    return Request(
        rootless=rootless,
        layers=layers,
        args=step.args,
        env=environment(step),
        cwd=step.cwd or "/",
        user=step.user or "",
        mounts=made,
        private_network=step.network == "none",
        insecure=step.insecure,
        hostname=step.hostname,
        hosts=hosts(step),
        shm_size=step.limits.shm_size,
        rlimits=tuple((one.resource, one.soft, one.hard) for one in step.limits.ulimits),
        resolv_conf=RESOLV_CONF.read_text(errors="surrogateescape") if RESOLV_CONF.is_file() else "",
    )
