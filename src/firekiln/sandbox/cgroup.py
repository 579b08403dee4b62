"""Control groups: the limits of all steps of a runner together, and of one step.

    firekiln-steps-TOKEN/     made for a runner, locked while it lives; pids.max holds all of its steps
        spawner/              where the spawner and, unless they have limits of their own, its steps are
        step-N/               one step with limits of its own (memory, cpu)

The groups lie beside the process that builds, so that whatever confines it confines its steps: with version 1 of
cgroups in its own group, in the hierarchy of each controller; with version 2 in the nearest group above it that has,
or can be given, the controllers (a group with processes in it can't hand any on, cgroups(7)).

To move a process costs the kernel a grace period (6 ms), so that only steps with limits of their own are moved: the
others are born into the spawner's group. A process that is killed leaves its group behind: the next runner removes
what nobody has locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from firekiln.errors import SandboxError
from firekiln.sandbox.limits import Limits
from firekiln.values import dataclass

_PREFIX: Final = "firekiln-steps-"
_OURS: Final = re.compile(_PREFIX + "[0-9a-f]{12}")
_PERIOD_US: Final = 100_000
_LEAST_QUOTA_US: Final = 1000
_END_SECONDS: Final = 2.0
_OFTEN: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a controller's groups can be made: a folder of a cgroup file system of version 1 or 2."""

    folder: Path
    unified: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGroup:
    """A step's own groups. `joining` are descriptors: who writes `0` to each is in them."""

    joining: tuple[int, ...] = ()
    events: Path | None = None

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed a process of the step because of its memory limit."""
        if self.events is None:
            return False
        return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in _lines(self.events))


class Groups:
    """The groups of one runner, each made when it is first wanted. Usable from several threads; `close` removes all."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._homes: dict[Path, Path] = {}
        self._lock = threading.Lock()
        self._count = 0

    def hold(self, pid: int, *, processes: int) -> None:
        """Put process `pid` into the runner's group, which may have that many processes and threads. SandboxError."""
        home, _ = self._home("pids", "--pids-limit")
        with _refusals("--pids-limit"):
            (home / "pids.max").write_text(str(processes))
            group = home / "spawner"
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(pid))

    @contextmanager
    def step(self, limits: Limits) -> Iterator[StepGroup]:
        """Groups for a step with these limits, none where it has none. SandboxError where they can't be had."""
        with ExitStack() as held:
            joined: set[Path] = set()
            events = None
            with self._lock:
                self._count += 1
                number = self._count
            if limits.memory:
                with _refusals("--memory"):
                    group, place = self._step("memory", "--memory", number, held)
                    _limit_memory(group, limits.memory, unified=place.unified)
                    events = group / ("memory.events" if place.unified else "memory.oom_control")
                    joined.add(group)
            if limits.cpus:
                with _refusals("--cpus"):
                    group, place = self._step("cpu", "--cpus", number, held)
                    _limit_cpus(group, limits.cpus, unified=place.unified)
                    joined.add(group)
            joining = tuple(os.open(group / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for group in joined)
            for descriptor in joining:
                held.callback(os.close, descriptor)
            yield StepGroup(joining=joining, events=events)

    def close(self) -> None:
        """Remove the groups, and kill what is in them. Idempotent."""
        with self._lock:
            self._homes.clear()
            self._held.close()

    def _step(self, controller: str, option: str, number: int, held: ExitStack) -> tuple[Path, Place]:
        home, place = self._home(controller, option)
        if place.unified:
            (home / "cgroup.subtree_control").write_text(f"+{controller}")
        group = home / f"step-{number}"
        if not group.is_dir():
            group.mkdir()
            held.callback(_remove, group)
        return group, place

    def _home(self, controller: str, option: str) -> tuple[Path, Place]:
        place = find(controller)
        if place is None:
            raise SandboxError(
                f"{option}: this host has no {controller} cgroup that steps could be put into",
                hint="build as root on a host with cgroups, or in a container that may write to /sys/fs/cgroup",
            )
        with self._lock:
            home = self._homes.get(place.folder)
            if home is None:
                _sweep(place.folder)
                with _refusals(option):
                    home = self._homes[place.folder] = self._held.enter_context(_made(place.folder))
            return home, place


def find(controller: str) -> Place | None:
    """Where groups with this controller can be made by us; None where there is no such place."""
    own = _own_groups()
    for mount, root, kind, options in _mounts():
        if kind == "cgroup" and controller in options and controller in own:
            folder = _below(mount, root, own[controller])
            return Place(folder=folder, unified=False) if os.access(folder, os.W_OK) else None
        if kind == "cgroup2" and "" in own:
            folder = _below(mount, root, own[""])
            for candidate in (folder, *folder.parents):
                if _hands_on(candidate, controller):
                    return Place(folder=candidate, unified=True)
                if candidate == mount:
                    break
    return None


@contextmanager
def _made(place: Path) -> Iterator[Path]:
    """A new group, locked; removed in the end with all that is in it."""
    while True:
        folder = place / f"{_PREFIX}{secrets.token_hex(6)}"
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            break
        os.close(lock)  # somebody swept it before it was locked
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _sweep(place: Path) -> None:
    """Remove the groups of processes that were killed: those that nobody has locked."""
    for folder in filter(lambda path: _OURS.fullmatch(path.name), place.glob(f"{_PREFIX}*")):
        with contextlib.suppress(OSError), ExitStack() as held:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            held.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)


def _remove(folder: Path) -> None:
    """Kill what is in a group of ours and in those below it, and remove them; what will not go in time stays."""
    deadline = time.monotonic() + _END_SECONDS
    for group in [*(entry for entry in folder.glob("*") if entry.is_dir()), folder]:
        while group.is_dir():
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            if time.monotonic() > deadline:
                return
            for pid in _lines(group / "cgroup.procs"):
                with contextlib.suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(_OFTEN)


def _limit_memory(group: Path, size: int, *, unified: bool) -> None:
    """As docker: as much swap again as memory, where the kernel counts swap."""
    if unified:
        (group / "memory.max").write_text(str(size))
        swap, amount = group / "memory.swap.max", size
    else:
        (group / "memory.limit_in_bytes").write_text(str(size))
        swap, amount = group / "memory.memsw.limit_in_bytes", 2 * size
    if swap.exists():
        swap.write_text(str(amount))


def _limit_cpus(group: Path, cpus: float, *, unified: bool) -> None:
    quota = max(_LEAST_QUOTA_US, round(cpus * _PERIOD_US))
    if unified:
        (group / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        return
    (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
    (group / "cpu.cfs_quota_us").write_text(str(quota))


def _hands_on(folder: Path, controller: str) -> bool:
    """Whether groups in a folder of version 2 have the controller, after it was asked for."""
    if not os.access(folder, os.W_OK) or controller not in " ".join(_lines(folder / "cgroup.controllers")).split():
        return False
    control = folder / "cgroup.subtree_control"
    with contextlib.suppress(OSError):  # EBUSY: processes are in it
        if controller not in " ".join(_lines(control)).split():
            control.write_text(f"+{controller}")
        return True
    return False


def _own_groups() -> dict[str, str]:
    """The path of our group by controller, version 2's by "". Format: proc(5), cgroups(7)."""
    made = {}
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        made.update(dict.fromkeys(controllers.split(","), path))
    return made


def _mounts() -> Iterator[tuple[Path, str, str, list[str]]]:
    """Mounted cgroup file systems: where, which group that is, `cgroup` or `cgroup2`, options. Format: proc(5)."""
    for line in _lines(Path("/proc/self/mountinfo")):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in {"cgroup", "cgroup2"}:
            _, _, _, root, mount, *_ = before.split(" ")
            yield Path(mount), root, kind, options.split(",")


def _below(mount: Path, root: str, path: str) -> Path:
    """Where group `path` lies when group `root` is mounted at `mount`; `mount` where it is not below that."""
    if path == root or not f"{path}/".startswith(root if root.endswith("/") else f"{root}/"):
        return mount
    return mount / path.removeprefix(root).strip("/")


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text().splitlines()
    return []


@contextmanager
def _refusals(option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise SandboxError(f"{option}: cannot set the limit: {error.strerror or error}{place}") from error
