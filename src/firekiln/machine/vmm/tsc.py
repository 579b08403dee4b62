"""The frequency of the host's time stamp counter, which is the guest's own under TCG.

A guest under TCG calibrates its TSC against emulated timers, and hangs often while it does; told the right value it
neither measures nor hangs. RDTSC is not reachable from Python, so ten bytes of machine code are.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable

_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_INTERVAL = 0.010
_TRIALS = 8


def host_tsc_khz() -> int | None:
    """Measure it against CLOCK_MONOTONIC_RAW; takes 10 ms. None where the host is no x86-64 or forbids such pages."""
    if os.uname().machine != "x86_64":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    with page:
        page.write(_RDTSC)
        anchor = ctypes.c_char.from_buffer(page)
        try:
            read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(anchor))
            return _measure(read)
        finally:
            del anchor  # the page cannot be closed while something points into it


def _measure(read: Callable[[], int]) -> int:
    ticks, clock = _sample(read)
    time.sleep(_INTERVAL)
    later_ticks, later_clock = _sample(read)
    return round((later_ticks - ticks) * 1_000_000 / (later_clock - clock))


def _sample(read: Callable[[], int]) -> tuple[int, int]:
    """Ticks and nanoseconds of one moment: of several trials the one whose clock readings lie closest together."""
    best: tuple[int, int, int] | None = None
    for _ in range(_TRIALS):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        ticks = read()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        if best is None or after - before < best[0]:
            best = (after - before, ticks, (before + after) // 2)
    assert best is not None
    return best[1], best[2]
