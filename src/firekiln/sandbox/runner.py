"""RUN steps in Linux namespaces, as root: the Runner protocol of `build/runner.py`."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self

from firekiln.errors import SandboxError
from firekiln.rootfs.directory import opened_upper
from firekiln.sandbox import running, upper
from firekiln.sandbox.handover import handed_over
from firekiln.sandbox.launcher import Launcher
from firekiln.sandbox.step import Outcome, Output, Step
from firekiln.sandbox.stubs import prune

NETWORKS: Final = frozenset({"default", "none", "host"})


class NamespaceRunner:
    """Runs steps in namespaces of their own. Usable from several threads; `close` it, or leave its context.

    `work` is an existing folder on the store's disk (by default the host's for temporary files), perhaps shared with
    others; what a step makes there is locked while it lives and removed afterwards. `memory` False keeps upper sides
    off tmpfs. No process is started before the first step.
    """

    def __init__(self, work: Path | None = None, *, memory: bool = True) -> None:
        self._work = work or Path(tempfile.gettempdir())
        self._memory = memory
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

    def supports(self, networks: Sequence[str]) -> bool:
        """True for `default`, `none` and `host`. `default` is the host's network too."""
        return NETWORKS.issuperset(networks)

    @contextmanager
    def run(self, step: Step, *, output: Output, cancel: threading.Event) -> Iterator[Outcome]:
        """Run `step` to its end. SandboxError where it cannot be started, and where `cancel` ended it (within 1 s).

        A step that fails when its memory is full is run once more, its upper side on the disk.
        """
        if os.geteuid() != 0:
            raise SandboxError("RUN steps need root", hint="run it as root: sudo firekiln …")
        with ExitStack() as held:
            area = held.enter_context(self._area())
            ended = self._run(step, area, output, cancel)
            if ended.status != 0 and ended.was_full:
                output(2, b"firekiln: no room left in memory; running the step again on the disk\n")
                held.close()
                area = held.enter_context(upper.on_disk(self._work))
                ended = self._run(step, area, output, cancel)
            assert ended.status is not None
            diff = held.enter_context(opened_upper(f"{area.path}/upper", user_xattrs=False))
            prune(diff, ended.stubs)
            yield Outcome(status=ended.status, diff=diff)

    def _area(self) -> AbstractContextManager[upper.Area]:
        size = upper.tmpfs_size() if self._memory else 0
        return upper.on_tmpfs(size) if size else upper.on_disk(self._work)

    def _run(self, step: Step, area: upper.Area, output: Output, cancel: threading.Event) -> running.Running:
        launcher = self._started()
        with ExitStack() as held:
            request, mounts = held.enter_context(handed_over(step, area, launcher))
            under_way = held.enter_context(running.started(launcher, request, area, mounts))
            try:
                under_way.follow(output, cancel)
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
                upper.sweep(self._work)
                self._memory = self._memory and upper.tmpfs_keeps_xattrs()
                self._launcher = Launcher(self._work)
            return self._launcher

    def _forget(self, launcher: Launcher) -> None:
        with self._lock:
            if self._launcher is launcher:
                self._launcher = None
        launcher.close()
