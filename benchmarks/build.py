#!/usr/bin/env python3
"""How long builds take: firekiln beside Docker's BuildKit and buildah, on the same disk and from the same mirror.

usage: .venv/bin/python benchmarks/build.py [--rounds N] [--only ROW,…] [--builders NAME,…] [--disk FILE]

Run it as root, on a machine that does nothing else. The builders take turns. Their data lies on an ext4 of its own in
a sparse file (50 GB, of which about 20 are used), attached with direct I/O; downloads come from a cache on 127.0.0.1,
filled by a first build that is not counted. Prints a Markdown table of medians. A builder that is not installed is left
out; nothing is left behind: no daemon, mount, loop device or file.

Rows: web, c, nginx, large (cold builds of dockerfiles/), step (one of 21 RUN true), warm (nothing changed), change and
change-large (one of 1,000 files changed, from the command to what a virtual machine boots), version.
"""

import argparse
import contextlib
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builders import Buildah, Builder, BuilderError, Docker, Firekiln
from mirror import serving

HERE = Path(__file__).parent
DISK_SIZE = 50 << 30
STEPS = 21
NAMESPACE = "FIREKILN_BENCHMARK_NAMESPACE"
"""The variable that says that we run in a mount namespace of our own."""
FILES = 1000
REQUIREMENTS = "flask==3.0.3\ngunicorn==22.0.0\nrequests==2.32.3\njinja2==3.1.4\nsqlalchemy==2.0.36\n"


@dataclass(frozen=True)
class Row:
    """A line of the table. `goal` is in the row's unit, or how many times as fast as Docker, where `relative`."""

    title: str
    goal: float
    unit: str = "s"
    relative: bool = False


ROWS = {
    "web": Row("cold build: Python web application (apt, pip)", 1.3, relative=True),
    "c": Row("cold build: C in two stages", 1.3, relative=True),
    "nginx": Row("cold build: nginx", 1.3, relative=True),
    "large": Row("cold build: 2 GB in 80,000 files", 1.3, relative=True),
    "step": Row(f"one `RUN true` of {STEPS}", 12, unit="ms"),
    "warm": Row("rebuild, nothing changed", 0.15),
    "change": Row("one file changed, to what boots: web application", 0.25),
    "change-large": Row("one file changed, to what boots: 2 GB image", 0.25),
    "version": Row("`--version`", 60, unit="ms"),
}
COLD = ("web", "c", "nginx", "large")


@dataclass
class Bench:
    """What all measurements share. `figures` are seconds by row and builder, `memory` bytes by builder."""

    context: Path
    scratch: Path
    arguments: Mapping[str, str]
    figures: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def build(self, builder: Builder, name: str, *, cold: bool = False) -> None:
        dockerfile = self.context / f"{name}.Dockerfile"
        builder.build(self.context, dockerfile, f"bench-{name}", arguments=self.arguments, cold=cold)

    def time(self, row: str, builder: Builder, action: Callable[[], None], *, parts: int = 1) -> None:
        """Measure `action`, one of whose `parts` is the figure."""
        with watched(builder) as peak:
            start = time.perf_counter()
            action()
            seconds = time.perf_counter() - start
        self.figures.setdefault((row, builder.name), []).append(seconds / parts)
        self.memory[builder.name] = max(self.memory.get(builder.name, 0), peak())
        print(f"  {row} {builder.name}: {seconds / parts:.3f} s", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(ROWS), metavar="ROW,…")
    parser.add_argument("--builders", default="firekiln,docker,buildah", metavar="NAME,…")
    parser.add_argument("--disk", type=Path, metavar="FILE", help="where the sparse file shall lie (default: /var/tmp)")
    options = parser.parse_args()
    rows = [row for row in options.only.split(",") if row]
    if unknown := set(rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        sys.exit("benchmarks/build.py: run it as root: it makes and mounts a file system")
    in_private_namespace()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that it, too, leaves nothing behind
    try:
        compare(rows, options.rounds, options.builders.split(","), options.disk)
    except (BuilderError, subprocess.CalledProcessError) as error:
        sys.exit(f"benchmarks/build.py: {error}")


def in_private_namespace() -> None:
    """Go on in a mount namespace of our own, which shares nothing with the host's and ends with us.

    Builders bind the host's /dev into containers: where propagation is shared, and a builder dies before it cleans up,
    taking down what is below our disk would take down /dev/pts of the host as well.
    """
    if os.environ.pop(NAMESPACE, None) is None:
        namespace = ["unshare", "--mount", "--propagation", "private"]
        os.environ[NAMESPACE] = "private"
        os.execvp(namespace[0], [*namespace, sys.executable, *sys.argv])


def compare(rows: list[str], rounds: int, wanted: list[str], place: Path | None) -> None:
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(disk(place))
        mirror = stack.enter_context(serving())
        bench = Bench(
            context=data / "context",
            scratch=data / "scratch",
            arguments={"http_proxy": mirror.proxy, "no_proxy": "127.0.0.1", "PIP_INDEX_URL": mirror.index_url},
        )
        bench.scratch.mkdir()
        write_context(bench.context)
        builders = prepared(bench, data, wanted, stack)
        try:
            measure(bench, builders, rows, rounds)
        finally:  # what was measured before something failed is worth its line
            report(bench, builders, rows, rounds)


def prepared(bench: Bench, data: Path, wanted: list[str], stack: contextlib.ExitStack) -> list[Builder]:
    """The builders that are there, each with the same base image."""
    firekiln = Firekiln(data)
    base = bench.scratch / "base.tar"
    firekiln.save_base(base)
    builders: list[Builder] = [firekiln]
    for kind in (Docker, Buildah):
        if kind.name.lower() not in wanted:
            continue
        try:
            builder = kind(data)
            if isinstance(builder, Docker):
                stack.enter_context(builder.running())
            builder.prepare(base)
        except BuilderError as error:
            bench.skipped.append(f"{kind.name}: {error}")
        else:
            builders.append(builder)
    return builders


def measure(bench: Bench, builders: list[Builder], rows: list[str], rounds: int) -> None:
    for name in COLD:
        if name in rows:
            cold(bench, builders, name, rounds)
    if "step" in rows:
        steps(bench, builders, rounds)
    for name, users in (("web", {"warm", "change"}), ("large", {"change-large"})):
        for builder in builders if users & set(rows) else ():
            bench.build(builder, name)
    for row in ("warm", "change", "change-large", "version"):  # in this order: a change makes what was warm cold
        for _ in range(rounds if row in rows else 0):
            for builder in builders:
                quick(bench, builder, row)


def quick(bench: Bench, builder: Builder, row: str) -> None:
    """A row whose image is built already, once."""
    match row:
        case "warm":
            bench.time(row, builder, lambda: bench.build(builder, "web"))
        case "change":
            change(bench, builder, row, "web")
        case "change-large":
            change(bench, builder, row, "large")
        case "version":
            argv = [builder.program, "--version"]
            bench.time(row, builder, lambda: subprocess.run(argv, stdout=subprocess.DEVNULL, check=True) and None)


def cold(bench: Bench, builders: list[Builder], name: str, rounds: int) -> None:
    """The first build fills the mirror and is not counted."""
    for builder in builders:
        bench.build(builder, name)
    for _ in range(rounds):
        for builder in builders:
            builder.tidy(f"bench-{name}")
            os.sync()
            bench.time(name, builder, lambda builder=builder: bench.build(builder, name, cold=True))


def steps(bench: Bench, builders: list[Builder], rounds: int) -> None:
    """What one more step costs: 21 without what one takes, start and end included."""
    for number in range(-1, rounds):
        for builder in builders:
            start = time.perf_counter()
            bench.build(builder, "one", cold=True)
            one = time.perf_counter() - start
            start = time.perf_counter()
            bench.build(builder, "steps", cold=True)
            if number >= 0:
                seconds = (time.perf_counter() - start - one) / (STEPS - 1)
                bench.figures.setdefault(("step", builder.name), []).append(seconds)
                print(f"  step {builder.name}: {seconds * 1000:.1f} ms", file=sys.stderr)


def change(bench: Bench, builder: Builder, row: str, name: str) -> None:
    if not builder.boots:
        return
    (bench.context / "app" / "package7" / "module7.py").write_text(f"NOW = {time.time_ns()}\n")
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:

        def action() -> None:
            bench.build(builder, name)
            builder.boot(f"bench-{name}", Path(folder))

        bench.time(row, builder, action)


def write_context(folder: Path) -> None:
    """The Dockerfiles, an application of 1,000 files, the source of a program, and what makes 80,000 files."""
    shutil.copytree(HERE / "dockerfiles", folder)
    for number in range(FILES):
        package = folder / "app" / f"package{number % 40}"
        package.mkdir(parents=True, exist_ok=True)
        (package / f"module{number}.py").write_text(f"# module {number}\n" * 40)
    (folder / "app" / "main.py").write_text("from flask import Flask\n\napp = Flask(__name__)\n")
    (folder / "requirements.txt").write_text(REQUIREMENTS)
    source = folder / "source"
    source.mkdir()
    for number in range(20):
        (source / f"part{number}.c").write_text(f"int part{number}(int x) {{ return x * {number} + 1; }}\n")
    calls = " + ".join(f"part{number}(1)" for number in range(20))
    declared = "".join(f"int part{number}(int);\n" for number in range(20))
    (source / "main.c").write_text(f"{declared}int main(void) {{ return ({calls}) == 0; }}\n")
    (source / "Makefile").write_text(
        "program: $(patsubst %.c,%.o,$(wildcard *.c))\n\t$(CC) -o $@ $^\n%.o: %.c\n\t$(CC) -O2 -c -o $@ $<\n"
    )
    (folder / "one.Dockerfile").write_text("FROM debian:bookworm-slim\nRUN true 0\n")
    (folder / "steps.Dockerfile").write_text(
        "FROM debian:bookworm-slim\n" + "".join(f"RUN true {number}\n" for number in range(STEPS))
    )


@contextlib.contextmanager
def disk(place: Path | None) -> Iterator[Path]:
    """A new ext4 in a sparse file, mounted; gone afterwards."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="firekiln-build-", dir="/var/tmp")))
        file = place or folder / "disk"
        stack.callback(file.unlink, missing_ok=True)
        with file.open("xb") as sparse:
            sparse.truncate(DISK_SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(file)], check=True)
        device = subprocess.run(
            ["losetup", "--find", "--show", "--direct-io=on", str(file)], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        stack.callback(subprocess.run, ["losetup", "--detach", device], check=True)
        data = folder / "data"
        data.mkdir()
        subprocess.run(["mount", device, str(data)], check=True)
        stack.callback(subprocess.run, ["umount", "--recursive", str(data)], check=True)
        yield data


@contextlib.contextmanager
def watched(builder: Builder) -> Iterator[Callable[[], int]]:
    """The most memory (bytes, resident) that the builder's processes had together, looked at ten times a second."""
    peak = 0
    over = threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(0.1):
            peak = max(peak, resident(builder.processes))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: peak
    finally:
        over.set()
        thread.join()


def resident(names: tuple[str, ...]) -> int:
    """What the processes of these names below this one hold."""
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            parents[int(folder.name)] = int(rest.split()[1])
            if name in names:
                sizes[int(folder.name)] = int((folder / "statm").read_text().split()[1])
    return sum(size for pid, size in sizes.items() if below_us(pid, parents)) * os.sysconf("SC_PAGE_SIZE")


def below_us(pid: int, parents: Mapping[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False


def report(bench: Bench, builders: list[Builder], rows: list[str], rounds: int) -> None:
    names = [builder.name for builder in builders]
    print(f"| | {' | '.join(names)} | Docker ÷ firekiln | goal |")
    print(f"|---|{'---|' * (len(names) + 2)}")
    for key in rows:
        row = ROWS[key]
        medians = {
            name: statistics.median(bench.figures[key, name]) for name in names if bench.figures.get((key, name))
        }
        shown = [number(medians.get(name), row.unit) for name in names]
        ratio = medians["Docker"] / medians["firekiln"] if {"Docker", "firekiln"} <= set(medians) else None
        cells = [*shown, f"{ratio:.1f}" if ratio else "-", goal(row, medians.get("firekiln"), ratio)]
        print(f"| {row.title} | {' | '.join(cells)} |")
    memory = [f"{bench.memory[name] / 1e6:.0f} MB" if name in bench.memory else "-" for name in names]
    print(f"| peak memory of the builder's own processes | {' | '.join(memory)} | | |")
    print()
    print(f"Medians of {rounds}. {'; '.join(builder.version() for builder in builders)}. {machine()}")
    for line in bench.skipped:
        print(f"Left out: {line}")


def number(seconds: float | None, unit: str) -> str:
    if seconds is None:
        return "-"
    if unit == "ms":
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.2f} s"


def goal(row: Row, figure: float | None, ratio: float | None) -> str:
    """`figure` is firekiln's, in seconds."""
    if row.relative:
        text, met = f"≥ {row.goal} times Docker", None if ratio is None else ratio >= row.goal
    else:
        scale = 1000 if row.unit == "ms" else 1
        text, met = f"≤ {row.goal} {row.unit}", None if figure is None else figure * scale <= row.goal
    return text if met is None else f"{text}, {'met' if met else 'missed'}"


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{model}, {os.cpu_count()} processors, {memory:.0f} GiB, Linux {platform.release()}."


if __name__ == "__main__":
    main()
