#!/usr/bin/env python3
"""How long a machine takes from `firekiln run` to its first byte, with each kind of kernel that the store has.

usage: .venv/bin/python benchmarks/boot.py [--rounds N] [--image hello] [--port 8080] [--without systemd,many]

The image must serve HTTP on the port; `hello` is built from examples/hello where the store lacks it. Debian's kernel is
fetched where it is absent; ours is measured where `firekiln kernel build` has been run. The kernels take turns, so that
whatever else the host does meets both; with them a QEMU that boots the same application under systemd, from a disk
that mkfs.ext4 makes (as root; packages are fetched), with our kernel, which needs no initramfs for that. At last ten
machines of the image run at once (see `many`). Prints medians (and the fastest) in milliseconds as Markdown tables.
"""

import argparse
import contextlib
import os
import platform
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import many
import systemd

from firekiln.machine.kernel import Kernel, kernels, pull
from firekiln.machine.vmm.accel import choose_qemu
from firekiln.machine.vmm.hostfacts import HostFacts
from firekiln.store import Store

ROWS = (
    ("run", "`run` to the process started"),
    ("byte", "`run` to the first byte over the published port"),
    ("life", "a whole `run` of a process that exits at once"),
    ("warm", "`run --warm` to the first byte, from a snapshot"),
    ("three", "the last of three `run --warm` at once to its first byte"),
)

INTERVAL = 0.02
OWN = ("kernels", "machines", "tmp", "warm")


@dataclass(frozen=True)
class Stage:
    """A kernel, and a store like the user's that has no other."""

    kernel: Kernel
    root: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--image", default="hello")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--without", default="", metavar="PARTS", help="systemd, many, or both with a comma")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store.open())
        prepare(store, options.image)
        newest = {kernel.kind: kernel for kernel in reversed(kernels(store.root))}
        stages = [stack.enter_context(stage(store, kernel)) for _, kernel in sorted(newest.items())]
        figures = {kernel: {row: [] for row, _ in ROWS} for kernel in newest}
        baseline = Baseline(stack, store, options.image, newest, wanted="systemd" not in options.without)
        for number in range(-1, options.rounds):  # the first round fills caches and is not counted
            for item in stages:
                for row, value in measure(item, options.image, options.port).items():
                    if number >= 0:
                        figures[item.kernel.kind][row].append(value)
            baseline.measure(counts=number >= 0)
        report(stages, figures, options.rounds, baseline.seconds)
        if "many" not in options.without:
            print("\n| ten machines of one image | |\n|---|---|")
            for title, value in many.measure(stages[-1].root, options.image, command):
                print(f"| {title} | {value} |")


class Baseline:
    """The same application under systemd, where the store has a kernel that boots it. `seconds` to the first byte."""

    def __init__(
        self, stack: contextlib.ExitStack, store: Store, image: str, known: dict[str, Kernel], *, wanted: bool
    ) -> None:
        self.seconds: list[float] = []
        self._kernel = next((kernel for kernel in known.values() if wanted and systemd.suits(kernel)), None)
        if self._kernel is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="firekiln-systemd-", dir=store.root))
            self._disk = systemd.prepare(store, image, Path(folder))

    def measure(self, *, counts: bool) -> None:
        if self._kernel is None:
            return
        port = free_port()
        with systemd.booted(self._kernel, self._disk, port) as begin:
            seconds = first_byte(port, begin + 120) - begin
        if counts:
            self.seconds.append(seconds)


def prepare(store: Store, image: str) -> None:
    if store.images.find(image) is None:
        example = Path(__file__).parents[1] / "examples" / "hello"
        firekiln(store.root, "build", "-q", "-t", image, str(example))
    if not any(kernel.kind == "debian" for kernel in kernels(store.root)):
        pull(store.root, progress=lambda text: print(text, file=sys.stderr))


@contextlib.contextmanager
def stage(store: Store, kernel: Kernel) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="firekiln-boot-") as name:
        root = Path(name)
        for path in store.root.iterdir():
            if path.name not in OWN:
                (root / path.name).symlink_to(path)
        for folder in OWN:
            (root / folder).mkdir()
        (root / "kernels" / kernel.image.parent.name).symlink_to(kernel.image.parent)
        try:
            yield Stage(kernel=kernel, root=root)
        finally:
            firekiln(root, "snapshot", "prune", "-f")


def measure(item: Stage, image: str, guest_port: int) -> dict[str, float]:
    begin = time.monotonic()
    with running(item, image, guest_port) as (byte, machine):
        started = started_at(item.root, machine)
    figures = {"run": started - epoch(begin), "byte": byte, "life": life(item.root, image)}
    save(item, image, guest_port)
    with running(item, image, guest_port, "--warm") as (byte, _):
        figures["warm"] = byte
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        made = [pool.submit(stack.enter_context, running(item, image, guest_port, "--warm")) for _ in range(3)]
        figures["three"] = max(future.result()[0] for future in made)
    return figures


@contextlib.contextmanager
def running(item: Stage, image: str, guest_port: int, *flags: str) -> Iterator[tuple[float, str]]:
    """A machine: the seconds from the command's start to its first byte, and its id."""
    port = free_port()
    begin = time.monotonic()
    publish = f"127.0.0.1:{port}:{guest_port}"
    argv = command(item.root, "run", "--detach", "--rm", *flags, "--publish", publish, image)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as starting:
        byte = first_byte(port, begin + 60)
        assert starting.stdout is not None
        machine = starting.stdout.read().decode().strip()
        starting.wait()
    yield byte - begin, machine
    firekiln(item.root, "stop", "--time", "1", machine)


def save(item: Stage, image: str, guest_port: int) -> None:
    """Have `run --warm` make its snapshot, where there is none yet."""
    deadline = time.monotonic() + 120
    saved = command(item.root, "snapshot", "ls", "-q")
    if subprocess.run(saved, capture_output=True, check=True).stdout:
        return
    with running(item, image, guest_port, "--warm"):
        while not subprocess.run(saved, capture_output=True, check=True).stdout:
            if time.monotonic() > deadline:
                raise SystemExit("boot: run --warm makes no snapshot")
            time.sleep(INTERVAL)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def epoch(moment: float) -> float:
    return moment + time.time() - time.monotonic()


def started_at(root: Path, machine: str) -> float:
    from firekiln.machine.supervision.state import State  # noqa: PLC0415 - what a user of the command line never needs

    return State(root / "machines").get(machine).started_ns / 1e9


def first_byte(port: int, deadline: float) -> float:
    """When the first byte of an HTTP answer came.

    QEMU accepts connections before the guest listens, and may sit on one that came too early. So another one is made
    every 20 ms, as by a crowd of impatient clients, and the first that is answered counts.
    """
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        while (now := time.monotonic()) < deadline:
            with contextlib.suppress(OSError):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                selector.register(client, selectors.EVENT_READ)
            while (left := now + INTERVAL - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    with contextlib.suppress(OSError):
                        if key.fileobj.recv(1):
                            return time.monotonic()
                    selector.unregister(key.fileobj)
    raise SystemExit("boot: no answer from the machine")


def life(root: Path, image: str) -> float:
    """Seconds that a whole `run` takes of a process that exits at once: start, boot, power-off."""
    begin = time.monotonic()
    firekiln(root, "run", "--rm", "--entrypoint", "/bin/true", image)
    return time.monotonic() - begin


def command(root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "firekiln", "--root", str(root), *words]


def firekiln(root: Path, *words: str) -> None:
    subprocess.run(command(root, *words), stdout=subprocess.DEVNULL, check=True)


def report(stages: list[Stage], figures: dict[str, dict[str, list[float]]], rounds: int, baseline: list[float]) -> None:
    def cell(values: list[float]) -> str:
        return f"{statistics.median(values) * 1000:.0f} ({min(values) * 1000:.0f})"

    print(f"{machine()} ({accelerator(stages[0])}); {rounds} rounds, median (fastest), milliseconds\n")
    print("| | " + " | ".join(f"{item.kernel.kind} {item.kernel.version}" for item in stages) + " |")
    print("|---" * (len(stages) + 1) + "|")
    for row, title in ROWS:
        print(f"| {title} | " + " | ".join(cell(figures[item.kernel.kind][row]) for item in stages) + " |")
    if baseline:
        kinds = [item.kernel.kind for item in stages]
        print("| QEMU, Debian with systemd, to the first byte | " + " | ".join(
            cell(baseline) if kind == "own" else "-" for kind in kinds
        ) + " |")  # fmt: skip
        times = [statistics.median(baseline) / statistics.median(figures[kind]["byte"]) for kind in kinds]
        print("| … in units of `run`'s | " + " | ".join(
            f"{value:.1f}" if kind == "own" else "-" for kind, value in zip(kinds, times, strict=True)
        ) + " |")  # fmt: skip


def accelerator(item: Stage) -> str:
    facts = HostFacts(item.root / "machines" / "host.json")
    return choose_qemu(item.kernel.image, item.kernel.digest, facts).accelerator


def machine() -> str:
    model = platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    return f"{model}, {os.cpu_count()} processors, Linux {platform.release()}, {version.split(' (')[0].strip()}"


if __name__ == "__main__":
    main()
