#!/usr/bin/env python3
"""What a running machine costs its host: `exec`, logs, and the memory of its supervisor.

usage: .venv/bin/python benchmarks/guest.py [--rounds N] [--megabytes N]

Boots a machine of an image of static busybox (Debian's package busybox-static), built where the store lacks it, with
the kernel that `run` would take. `exec` is taken twice: from a connection's first byte to the last, as a program that
uses the library has it, and as a whole command, beside which a bare `python -c pass` is measured. Logs are what a
foreground `run` passes on to a pipe, while the supervisor writes them down. Prints a Markdown table of medians (and the
best).
"""

import argparse
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from firekiln.machine.machine import Machine
from firekiln.machine.supervision.state import State
from firekiln.store import Store

IMAGE = "firekiln-benchmark-busybox"
BUSYBOX = Path("/bin/busybox")
DOCKERFILE = 'FROM scratch\nCOPY busybox /bin/\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
LINE = "x" * 79
BLOCKS = "dd if=/dev/shm/lines bs=64k"
LINES = "dd if=/dev/shm/lines bs=800"
FILE = f"yes {LINE} | head -c 4194304 >/dev/shm/lines"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="of exec")
    parser.add_argument("--megabytes", type=int, default=64, help="of output")
    options = parser.parse_args()
    with Store.open() as store:
        if store.images.find(IMAGE) is None:
            build()
        rows = [*execs(store, options.rounds)]
        for title, writer in (("in blocks of 64 KiB", BLOCKS), ("in lines of 80 bytes, ten at once", LINES)):
            speeds = [log_speed(writer, options.megabytes) for _ in range(3)]
            rows.append((f"output passed on and logged, written {title}", cell(speeds, max, "MB/s")))
    print("| | median (best) |\n|---|---|")
    for title, value in rows:
        print(f"| {title} | {value} |")


def build() -> None:
    with tempfile.TemporaryDirectory() as context:
        shutil.copy(BUSYBOX, context)
        (Path(context) / "Dockerfile").write_text(DOCKERFILE)
        firekiln("build", "-q", "-t", IMAGE, context)


def execs(store: Store, rounds: int) -> Iterator[tuple[str, str]]:
    name = f"benchmark-{os.getpid()}"
    firekiln("run", "--detach", "--name", name, IMAGE, "sh", "-c", f"{FILE}; while :; do sleep 1000; done")
    try:
        machine = Machine.find(State(store.machines), name)
        trips = [timed(lambda: round_trip(machine)) for _ in range(rounds)]
        commands = [timed(lambda: firekiln("exec", name, "true")) for _ in range(rounds)]
        bare = [timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)) for _ in range(rounds)]
        yield "exec of a static `true`, connection to exit status", cell(trips, min, "ms")
        yield "`firekiln exec` of it", cell(commands, min, "ms")
        yield "of that, a bare start of Python", cell(bare, min, "ms")
        yield "the supervisor's resident memory, after that", memory(machine.id)
        firekiln("exec", name, "sh", "-c", f"for i in 1 2 3 4 5 6 7 8; do {BLOCKS}; done")
        yield "… and after 32 MiB of output of an exec", memory(machine.id)
    finally:
        firekiln("rm", "--force", name)


def round_trip(machine: Machine) -> None:
    with machine.exec("true") as stream:
        while stream.receive() is not None:
            pass


def log_speed(writer: str, megabytes: int) -> float:
    """MB/s from the first byte of a foreground run to its last."""
    count = megabytes // 4
    script = f"{FILE}; echo go; i=0; while [ $i -lt {count} ]; do {writer} 2>/dev/null; i=$((i + 1)); done"
    argv = [*command(), "run", "--rm", IMAGE, "sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=0) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"go\n"
        begin, size = time.monotonic(), 0
        while data := run.stdout.read(1 << 20):
            size += len(data)
            end = time.monotonic()
    if size != count << 22:
        raise SystemExit(f"guest: {size} bytes have come of {count << 22}")
    return size / 1e6 / (end - begin)


def memory(machine_id: str) -> str:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"firekiln.machine.supervision" in words and machine_id.encode() in words:
                found = re.search(r"VmRSS:\s+(\d+) kB", (path.parent / "status").read_text())
                return f"{int(found[1]) / 1024:.1f} MiB" if found else "?"
    raise SystemExit("guest: the machine has no supervisor")


def timed(action: Callable[[], object]) -> float:
    begin = time.monotonic()
    action()
    return (time.monotonic() - begin) * 1000


def cell(values: list[float], best: Callable[[list[float]], float], unit: str) -> str:
    return f"{statistics.median(values):.1f} ({best(values):.1f}) {unit}"


def command() -> list[str]:
    return [sys.executable, "-m", "firekiln"]


def firekiln(*words: str) -> None:
    subprocess.run([*command(), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
