"""RUN steps in machines: the Runner protocol of `build/runner.py`.

    step ──▶ machine that has its layers, or can be given them ──▶ overlay on the scratch drive ──▶ Tree of its upper

A machine runs one step at a time and then waits for the next one, of whatever stage. Each step gets a scratch drive
that is empty, is unmounted by the guest when the step has ended, and is read here, by our own reader of ext4. Root is
needed for nothing.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from firekiln.errors import MachineError, RootfsError, SandboxError
from firekiln.machine.guest.contract import Interface
from firekiln.machine.guest.reports import Exited, Failed
from firekiln.machine.isolation import cache
from firekiln.machine.isolation.boot import boot, new_folder
from firekiln.machine.isolation.document import step_document
from firekiln.machine.isolation.mounts import Mounts, lower, mounts_of
from firekiln.machine.isolation.vm import Ended, StepMachine
from firekiln.machine.vmm.spec import MIB, Nic
from firekiln.rootfs import ext4
from firekiln.rootfs.tree import Directory, Meta, Tree
from firekiln.sandbox.step import Outcome, Output, Step
from firekiln.sandbox.stubs import foreseen, prune
from firekiln.store import Store
from firekiln.values import dataclass

NETWORKS: Final = frozenset({"default", "none", "host"})
PROCESSES: Final = 8192
_DELIVERED: Final = 512 * MIB
"""Bytes of layers that a running machine is given at most, rather than that another one is booted with them."""
_IDLE: Final = 2
"""Machines kept for a next step, beside those that run one."""
_UNSTARTED: Final = 125
"""The guest's status where it is not the program that is at fault."""
_KERNEL_MOUNTS: Final = ("/proc", "/dev", "/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pooled:
    machine: StepMachine
    folder: Path
    memory: int
    cpus: float


class VmRunner:
    """Runs steps in machines. Usable from several threads; `close` it, or leave its context.

    `processes` is how many processes and threads a step may have, 0 for any number. No machine is booted before the
    first step.
    """

    caches = "vm"
    """What tells its folders of caches from those of others."""

    def __init__(self, store: Store, *, processes: int | None = None) -> None:
        self._store = store
        self._processes = PROCESSES if processes is None else processes
        self._guard = threading.Lock()
        self._idle: list[_Pooled] = []
        self._all: list[_Pooled] = []
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all machines, and what runs in them. Idempotent."""
        with self._guard:
            self._closed = True
            machines, self._all, self._idle = self._all, [], []
        for pooled in machines:
            _end(pooled)

    def supports(self, networks: Sequence[str]) -> bool:
        """True for `default`, `none` and `host`. Both others than `none` are the host's, behind a translation."""
        return NETWORKS.issuperset(networks)

    def furnish(self, folder: Path, *, mode: int, uid: int, gid: int, tree: Tree | None) -> None:
        """Make a new cache of the content of `tree`, or empty."""
        cache.begin(folder, Directory(meta=Meta(mode=mode, uid=uid, gid=gid)) if tree is None else tree)

    def advice(self, step: Step, said: bytes) -> str | None:  # noqa: ARG002 - the protocol's
        """Nothing: a step has all that its kernel can do."""
        return None

    @contextmanager
    def run(self, step: Step, *, output: Output, cancel: threading.Event) -> Iterator[Outcome]:
        """Run `step` to its end. SandboxError, MachineError where it cannot be, and where `cancel` ended it."""

        def check() -> None:
            if cancel.is_set():
                raise SandboxError("the step was cancelled")

        pooled = self._acquire(step, lambda message: output(2, f"firekiln: {message}\n".encode()))
        reusable = False
        try:
            mounts, ended = self._run(pooled, step, output, check)
            _heed(ended, output, pooled.machine, step)
            made = ext4.read(pooled.machine.scratch)
            for name, folder in mounts.caches.items():
                cache.update(folder, _side(made, name))
            diff = _side(made, None)
            targets = (*_KERNEL_MOUNTS, *(mount.target for mount in mounts.mounts))
            prune(diff, foreseen(lower(step.layers), targets))
            status, oom = ended.result.status, isinstance(ended.result, Exited) and ended.result.oom
            yield Outcome(status=status, diff=diff, out_of_memory=oom and bool(step.limits.memory))
            reusable = ended.released
        finally:
            self._release(pooled, reusable=reusable)

    def _run(self, pooled: _Pooled, step: Step, output: Output, check: Callable[[], None]) -> tuple[Mounts, Ended]:
        machine = pooled.machine
        nic = Nic(mac="")
        layers = machine.numbers(step.layers)
        try:
            resolv_conf = f"nameserver {nic.nameserver}\n"
            mounts = mounts_of(step, resolv_conf=resolv_conf, number=machine.next_number())
        except (OSError, RootfsError) as error:
            raise SandboxError(f"cannot prepare a mount of the step: {error}") from error
        if mounts.parts is not None:
            machine.give(mounts.parts)
        interface = Interface(address=nic.address, gateway=nic.gateway)
        document = step_document(
            step,
            layers=layers,
            mounts=mounts.mounts,
            interfaces=[] if step.network == "none" else [interface],
            processes=self._processes,
        )
        return mounts, machine.run(document, output=output, check=check)

    # --- machines ---------------------------------------------------------------------------------------------------

    def _acquire(self, step: Step, progress: Callable[[str], None]) -> _Pooled:
        """A machine for this step alone: the idle one that needs least, or a new one."""
        limits = step.limits
        with self._guard:
            if self._closed:
                raise SandboxError("the step was cancelled")
            fitting = [
                (pooled.machine.missing(step.layers), number)
                for number, pooled in enumerate(self._idle)
                if (pooled.memory, pooled.cpus) == (limits.memory, limits.cpus) and pooled.machine.has_room()
            ]
            least, number = min(fitting, default=(_DELIVERED + 1, 0))
            if least <= _DELIVERED:
                return self._idle.pop(number)
        self._thin_out()
        folder = new_folder(self._store)
        try:
            machine = boot(self._store, folder, step.layers, limits, progress=progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        made = _Pooled(machine=machine, folder=folder, memory=limits.memory, cpus=limits.cpus)
        with self._guard:
            if not self._closed:
                self._all.append(made)
                return made
        _end(made)
        raise SandboxError("the step was cancelled")

    def _thin_out(self) -> None:
        """Make room for one more."""
        with self._guard:
            surplus = self._idle[: max(0, len(self._idle) - _IDLE + 1)]
            self._idle = self._idle[len(surplus) :]
            self._all = [pooled for pooled in self._all if pooled not in surplus]
        for pooled in surplus:
            _end(pooled)

    def _release(self, pooled: _Pooled, *, reusable: bool) -> None:
        with self._guard:
            if reusable and not self._closed:
                self._idle.append(pooled)
                return
            if pooled in self._all:
                self._all.remove(pooled)
        _end(pooled)


def _end(pooled: _Pooled) -> None:
    pooled.machine.close()
    shutil.rmtree(pooled.folder, ignore_errors=True)


def _heed(ended: Ended, output: Output, machine: StepMachine, step: Step) -> None:
    """SandboxError where the step did not start for want of anything but its program."""
    result = ended.result
    if isinstance(result, Failed):
        if result.status == _UNSTARTED:
            raise SandboxError(result.message)
        output(2, f"{result.message}\n".encode())
    elif result.oom and not step.limits.memory:
        used = f"all of the VM's memory, {machine.memory // MIB} MiB"
        output(2, f"firekiln: the step used {used}: give it more by --memory\n".encode())


def _side(made: Tree, name: str | None) -> Tree:
    """The upper side of the step's root, or of a mount of that name. MachineError where the guest made none."""
    holder = made if name is None else made.children.get(name.encode())
    upper = holder.children.get(b"upper") if isinstance(holder, Directory) else None
    if not isinstance(upper, Directory):
        raise MachineError("the guest left its scratch drive without what the step wrote")
    return upper
