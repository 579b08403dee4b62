"""Ten machines of one image: what each costs its host, in time, on the disk and in memory."""

import ctypes
import mmap
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from firekiln.machine.machine import Machine
from firekiln.machine.supervision.state import State

MIB = 1 << 20
PAGE = mmap.PAGESIZE
COUNT = 10
SETTLED = 3.0
"""Seconds after the last start until memory is looked at."""


def measure(root: Path, image: str, command: Callable[..., list[str]]) -> list[tuple[str, str]]:
    """Rows of a table: what is measured, and its figure. The machines are gone in the end."""
    state = State(root / "machines")
    starts: list[float] = []
    with ExitStack() as stack:
        machines = []
        cached: list[int] = []
        for _ in range(COUNT):
            begin = time.monotonic()
            argv = command(root, "run", "--detach", "--memory", "256m", image)
            name = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
            starts.append(time.monotonic() - begin)
            machines.append(stack.enter_context(Machine(state, name)))
            cached.append(sum(resident(path) for path in layers(machines[0])))
        time.sleep(SETTLED)
        cached[-1] = sum(resident(path) for path in layers(machines[0]))
        return rows(state, machines, starts, cached)


def rows(
    state: State, machines: Sequence[Machine], starts: Sequence[float], cached: Sequence[int]
) -> list[tuple[str, str]]:
    shared = layers(machines[0])
    assert all(layers(machine) == shared for machine in machines)
    vmms = [machine.record.pid for machine in machines]
    supervisors = [int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in vmms]
    guests = [memory(pid, "Pss_Shmem") for pid in vmms]
    beside = [memory(pid, "Pss") - guest for pid, guest in zip(vmms, guests, strict=True)]
    own = [used(state.folder_of(machine.id)) for machine in machines]
    disk = sum(path.stat().st_blocks * 512 for path in shared)
    pss, rss = (median([memory(pid, field) for pid in supervisors]) / MIB for field in ("Pss", "Rss"))
    return [
        ("`run -d`, the first · the tenth", f"{starts[0] * 1000:.0f} ms · {starts[-1] * 1000:.0f} ms"),
        ("the image's layers on the disk, of all together", f"{disk / MIB:.1f} MiB"),
        ("… in the page cache, with one machine · with ten", f"{cached[0] / MIB:.1f} · {cached[-1] / MIB:.1f} MiB"),
        ("a machine's own on the disk (drive, initramfs, log)", f"{median(own) / 1024:.0f} KiB"),
        ("… the tenth's when it had started; of layers nothing", f"{own[-1] / 1024:.0f} KiB"),
        ("a machine's guest memory in use, of 256 MiB", f"{median(guests) / MIB:.0f} MiB"),
        ("its QEMU beside that, PSS", f"{median(beside) / MIB:.1f} MiB"),
        ("its supervisor, PSS · RSS", f"{pss:.1f} · {rss:.1f} MiB"),
    ]


def median(values: Sequence[int]) -> float:
    return statistics.median(values)


def layers(machine: Machine) -> list[Path]:
    return [drive.path for drive in machine.settings.spec.drives if drive.readonly]


def used(folder: Path) -> int:
    """Bytes that a folder's files take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def memory(pid: int, field: str) -> int:
    """Bytes, as the kernel sums them up (proc(5), `smaps_rollup`); PSS: what is shared, divided by who shares it."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def resident(path: Path) -> int:
    """Bytes of a file that are in the page cache (mincore(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    size = path.stat().st_size
    file = os.open(path, os.O_RDONLY)
    try:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
        pages = ctypes.create_string_buffer((size + PAGE - 1) // PAGE)
        try:
            if libc.mincore(address, size, pages):
                raise OSError(ctypes.get_errno(), "mincore")
        finally:
            libc.munmap(address, size)
    finally:
        os.close(file)
    return sum(byte & 1 for byte in pages.raw[: (size + PAGE - 1) // PAGE]) * PAGE
