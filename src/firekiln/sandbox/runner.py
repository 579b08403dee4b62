"""RUN steps in Linux namespaces, as root or as an ordinary user: the Runner protocol of `build/runner.py`."""

from __future__ import annotations

import os
import re
import stat
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from firekiln.errors import SandboxError
from firekiln.rootfs.tree import Tree
from firekiln.sandbox import denied, running, upper
from firekiln.sandbox.authority import Authority
from firekiln.sandbox.cgroup import Groups
from firekiln.sandbox.handover import handed_over
from firekiln.sandbox.launcher import Launcher, Rootless
from firekiln.sandbox.step import Outcome, Output, Step
from firekiln.sandbox.stubs import prune
from firekiln.sandbox.subids import is_host_root, own_map

NETWORKS: Final = frozenset({"default", "none", "host"})
PROCESSES: Final = 8192
"""Processes and threads that all steps together have by default: more than builds need, fewer than hurt a host."""


class NamespaceRunner:
    """Runs steps in namespaces of their own. Usable from several threads; `close` it, or leave its context.

    `work` is an existing folder on the store's disk (by default the host's for temporary files), perhaps shared with
    others; what a step makes there is locked while it lives and removed afterwards. `memory` False keeps upper sides
    off tmpfs. No process is started before the first step.

    Who is not root runs them in a user namespace of subordinate ids (`subids.py`). `snapshots` is then a folder for
    layers as directories, kept for the next runner while `layers`, the folder of the store's own files, has them too.
    What killed processes left in their folders below `temporary` is removed as well.

    `processes` is how many processes and threads all steps together may have, 0 for any number. None is a number that
    stops a fork bomb where the host can limit them at all.
    """

    caches = ""
    """Its folders of caches are told from no others."""

    def __init__(
        self,
        work: Path | None = None,
        *,
        memory: bool = True,
        processes: int | None = None,
        snapshots: Path | None = None,
        layers: Path | None = None,
        temporary: Path | None = None,
    ) -> None:
        self._work = work or Path(tempfile.gettempdir())
        self._snapshots = snapshots or self._work / f"firekiln-snapshots-{os.geteuid()}"
        self._layers = layers or self._work
        self._temporary = temporary
        self._memory = memory
        self._processes = processes
        self._pid_max = 0
        self._groups = Groups()
        self._lock = threading.Lock()
        self._launcher: Launcher | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is still running, and the process that runs it. Idempotent."""
        with self._lock:
            if self._launcher is not None:
                self._launcher.close()
                self._launcher = None
            self._groups.close()

    def clean(self, leavings: Collection[Path]) -> None:
        """Remove `leavings`, snapshots of layers that are gone, and what killed runners left, where only root of our
        user namespace can. SandboxError where we can have none.
        """
        if is_host_root() or not (leavings or (self._snapshots.is_dir() and any(self._snapshots.iterdir()))):
            return
        authority = self._started().authority  # the sweep comes with the start
        for left in leavings:
            authority.remove(left)

    def supports(self, networks: Sequence[str]) -> bool:
        """True for `default`, `none` and `host`. `default` is the host's network too."""
        return NETWORKS.issuperset(networks)

    def advice(self, step: Step, said: bytes) -> str | None:
        """Where it wanted what namespaces don't give: where it would have that."""
        return denied.advice(step.args, said)

    @contextmanager
    def run(self, step: Step, *, output: Output, cancel: threading.Event) -> Iterator[Outcome]:
        """Run `step` to its end. SandboxError where it cannot be started, and where `cancel` ended it (within 1 s).

        A step that fails when its memory is full is run once more, its upper side on the disk.
        """
        launcher = self._started()
        with ExitStack() as held:
            area = held.enter_context(self._area(step, launcher.authority))
            ended = self._run(step, area, launcher, output, cancel)
            if ended.status != 0 and ended.was_full:
                output(2, b"firekiln: no room left in memory; running the step again on the disk\n")
                held.close()
                area = held.enter_context(self._on_disk(launcher.authority))
                ended = self._run(step, area, launcher, output, cancel)
            assert ended.status is not None
            diff = held.enter_context(launcher.authority.upper(f"{area.path}/upper"))
            prune(diff, ended.stubs)
            yield Outcome(status=ended.status, diff=diff, out_of_memory=ended.out_of_memory)

    def furnish(self, folder: Path, *, mode: int, uid: int, gid: int, tree: Tree | None) -> None:
        """Give an empty folder of the store the content, mode and owner that steps are to see: of `tree` its own.

        SandboxError, OSError where that can't be.
        """
        authority = self._started().authority
        held = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if tree is not None:
                authority.fill(held, tree)
            else:
                authority.own(held, ".", mode=mode, uid=uid, gid=gid)
        finally:
            os.close(held)

    def _area(self, step: Step, authority: Authority) -> AbstractContextManager[upper.Area]:
        """Files in memory would count as the step's own memory, so that a step with a limit writes to the disk."""
        size = upper.tmpfs_size() if self._memory and not step.limits.memory else 0
        return upper.on_tmpfs(size, authority) if size else self._on_disk(authority)

    def _on_disk(self, authority: Authority) -> AbstractContextManager[upper.Area]:
        """What steps of other owners leave there, only the keeper can sweep, which knows its own folder."""
        return upper.on_disk(self._snapshots if authority.userxattr else self._work, authority)

    def _run(
        self, step: Step, area: upper.Area, launcher: Launcher, output: Output, cancel: threading.Event
    ) -> running.Running:
        def waiting() -> None:
            if cancel.is_set():
                raise SandboxError("the step was cancelled")

        with ExitStack() as held:
            group = held.enter_context(self._groups.step(step.limits))
            request, mounts = held.enter_context(handed_over(step, area, launcher, waiting))
            request = replace(request, pid_max=self._pid_max, groups=len(group.joining))
            under_way = held.enter_context(running.started(launcher, request, area, [*mounts, *group.joining]))
            try:
                under_way.follow(output, cancel)
                under_way.out_of_memory = group.ran_out_of_memory()
            except running.SpawnerGoneError:
                reason = launcher.last_words()
                self._forget(launcher)
                raise SandboxError(f"the process that runs steps ended: {reason or 'killed'}") from None
        if under_way.cancelled:
            raise SandboxError("the step was cancelled")
        if under_way.error is not None:
            raise SandboxError(under_way.error)
        return under_way

    def _started(self) -> Launcher:
        with self._lock:
            if self._launcher is None:
                rootless = None if is_host_root() else self._rootless()
                launcher = Launcher(self._work, hold=self._hold, rootless=rootless)
                with ExitStack() as unready:
                    unready.callback(launcher.close)
                    launcher.authority.sweep(self._layers, self._temporary)
                    self._memory = self._memory and upper.tmpfs_keeps_xattrs(launcher.authority)
                    unready.pop_all()
                self._launcher = launcher
            return self._launcher

    def _rootless(self) -> Rootless:
        ids = own_map()
        self._snapshots.mkdir(mode=0o700, exist_ok=True)
        found = self._snapshots.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise SandboxError(f"{self._snapshots} is not ours: layers for steps are kept there")
        return Rootless(ids=ids, snapshots=self._snapshots)

    def _hold(self, spawner: int) -> None:
        """Limit the number of processes, by a control group or else by that of process ids."""
        if self._processes == 0:
            return
        try:
            self._groups.hold(spawner, processes=self._processes or PROCESSES)
        except SandboxError:
            if self._processes is not None:
                raise
            self._pid_max = PROCESSES if _pid_max_is_private() else 0

    def _forget(self, launcher: Launcher) -> None:
        with self._lock:
            if self._launcher is launcher:
                self._launcher = None
        launcher.close()


def _pid_max_is_private() -> bool:
    """Whether /proc/sys/kernel/pid_max is the pid namespace's own, not the whole host's: since Linux 6.14."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return found is not None and (int(found[1]), int(found[2])) >= (6, 14)
