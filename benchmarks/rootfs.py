#!/usr/bin/env python3
"""How fast root file system images are made, and in how much memory, beside the usual ways to make them.

usage: .venv/bin/python benchmarks/rootfs.py [--rounds N] [--tree small|large]... [--folder DIR]

Makes trees like those of images (350 MB with 14,000 entries, 2.3 GB with 80,000), the same ones each time, and puts
them into a store of its own as images of four layers. Then the ways to one end take their turns in every round, so
that whatever else the host does meets all of them; what a way wrote is removed before the next one begins. Prints a
Markdown table for each tree: medians of seconds and of processor seconds, the highest peak of memory, and how ours
compare with the others.

Everything lies in DIR (/dev/shm, a tmpfs, by habit), which wants five times the size of the tree. Loop mounts and XFS
want root, and a way whose program is missing is left out and named.
"""

import argparse
import compileall
import contextlib
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

TREES = {"small": (14_000, 350_000_000), "large": (80_000, 2_300_000_000)}
MOST_MEMORY = {"small": 80, "large": 250}
"""Megabytes that one of our ways may take."""
SHARES = (55, 25, 14, 6)
"""Percent of the directories that lie in each layer."""


@dataclass(frozen=True)
class Way:
    """One way to make something. `goal` is what `rival` of the same table must take of our time, at least."""

    key: str
    title: str
    argv: list[str]
    out: Path
    rivals: dict[str, float] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    ours: bool = False


@dataclass(frozen=True)
class Figure:
    seconds: float
    processor: float
    memory: int


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        CHILDREN[sys.argv[2]](*map(Path, sys.argv[3:]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tree", action="append", choices=TREES, help="both, unless given")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    options = parser.parse_args()
    compileall.compile_dir(Path(__file__).parents[1] / "src", quiet=1)  # as whoever installs it does
    print(f"{machine()}, in {options.folder}; medians of {options.rounds} rounds")
    for name in options.tree or TREES:
        with tempfile.TemporaryDirectory(prefix="firekiln-rootfs-", dir=options.folder) as made:
            measure(name, Path(made), options.rounds)


def measure(name: str, folder: Path, rounds: int) -> None:
    child("tree", folder / "tree", Path(name))
    child("store", folder / "store", folder / "tree")
    skipped: list[str] = []
    ways: list[Way] = []
    figures: dict[str, list[Figure]] = {}
    for contest in (ext4_ways, erofs_ways, gzip_ways, zstd_ways):
        with contextlib.ExitStack() as stack:
            racing = list(contest(name, folder, skipped, stack))
            figures |= race(racing, rounds)
            ways += racing
    report(name, ways, figures)
    for line in skipped:
        print(f"left out: {line}")


def race(ways: list[Way], rounds: int) -> dict[str, list[Figure]]:
    figures: dict[str, list[Figure]] = {way.key: [] for way in ways}
    for number in range(-1, rounds):  # the first round fills caches and is not counted
        for way in ways:
            remove(way.out)
            way.prepare()
            figure = run(way.argv)
            if number >= 0:
                figures[way.key].append(figure)
            remove(way.out)
    return figures


def ext4_ways(name: str, folder: Path, skipped: list[str], stack: contextlib.ExitStack) -> Iterator[Way]:
    out, tree = folder / "out", folder / "tree"
    layers = sorted((folder / "store" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)[-4:]
    cat = {"cat": 0.5} if name == "large" else {}
    yield export("export", "flat ext4 out of the store", folder / "store", out, {"mke2fs": 6, "loop": 8, **cat})
    yield shell("cat", "`cat` of the same bytes", 'cat "$@" > "$0" && sync "$0"', out, *layers)
    size = sum(path.stat().st_size for path in layers) * 5 // 4 + (128 << 20)
    if present("mke2fs", skipped):
        argv = ["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(out)]
        yield Way("mke2fs", "`mke2fs -d` of the tree", argv, out, prepare=lambda: truncate(out, size))
        if is_root("loop mount + `cp -a`", skipped):
            mount = folder / "mount"
            mount.mkdir()
            stack.callback(subprocess.run, ["umount", "-q", str(mount)], check=False)
            script = (
                'mke2fs -q -t ext4 "$0" && mount -o loop "$0" "$1" && cp -a "$2/." "$1" && umount "$1" && sync "$0"'
            )
            way = shell("loop", "loop mount + `cp -a`", script, out, mount, tree)
            yield Way(way.key, way.title, way.argv, out, prepare=lambda: truncate(out, size))
    yield from reflink_ways(folder, size, skipped, stack)


def erofs_ways(_: str, folder: Path, skipped: list[str], __: contextlib.ExitStack) -> Iterator[Way]:
    out, tree = folder / "out", folder / "tree"
    yield ours("erofs", "directory to EROFS", out, tree, {"mkfs.erofs": 1.5})
    if present("mkfs.erofs", skipped):
        yield Way("mkfs.erofs", "`mkfs.erofs`", ["mkfs.erofs", "--quiet", str(out), str(tree)], out)


def gzip_ways(_: str, folder: Path, skipped: list[str], stack: contextlib.ExitStack) -> Iterator[Way]:
    return tar_ways(folder, "gz", ["gzip", "-1"], skipped, stack)


def zstd_ways(_: str, folder: Path, skipped: list[str], stack: contextlib.ExitStack) -> Iterator[Way]:
    return tar_ways(folder, "zst", ["zstd", "-q", "-3"], skipped, stack)


def tar_ways(
    folder: Path, suffix: str, compress: list[str], skipped: list[str], stack: contextlib.ExitStack
) -> Iterator[Way]:
    if not (present("tar", skipped) and present(compress[0], skipped)):
        return
    out, archive = folder / "out", folder / f"tree.tar.{suffix}"
    stack.callback(archive.unlink, missing_ok=True)
    subprocess.run(["tar", "-C", str(folder / "tree"), "-I", " ".join(compress), "-cf", str(archive), "."], check=True)
    yield ours(f"layer.{suffix}", f"tar.{suffix} to EROFS layer", out, archive, {f"tar.{suffix}": 1})
    argv = ["tar", "-C", str(out), "-I", compress[0], "-xf", str(archive)]
    yield Way(f"tar.{suffix}", f"`tar -x` of the tar.{suffix}", argv, out, prepare=out.mkdir)


def reflink_ways(folder: Path, size: int, skipped: list[str], stack: contextlib.ExitStack) -> Iterator[Way]:
    """The same export where files may share their blocks: the image's, and the layers'."""
    if not (present("mkfs.xfs", skipped) and is_root("XFS with reflinks", skipped)):
        return
    disk, mount = folder / "xfs", folder / "xfs.mount"
    truncate(disk, 3 * size + (1 << 30))
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(disk)], check=True)
    mount.mkdir()
    stack.callback(disk.unlink)
    subprocess.run(["mount", "-o", "loop", str(disk), str(mount)], check=True)
    stack.callback(subprocess.run, ["umount", str(mount)], check=True)
    shutil.copytree(folder / "store", mount / "store")
    yield export(
        "reflink", "flat ext4 out of the store, XFS with reflinks", mount / "store", mount / "out", {"export": 2}
    )


def export(key: str, title: str, store: Path, out: Path, rivals: dict[str, float]) -> Way:
    words = ["--root", str(store), "export", "-q", "bench", "-o", f"type=ext4,dest={out},boot=false"]
    return Way(key, title, [sys.executable, "-m", "firekiln", *words], out, rivals, ours=True)


def ours(key: str, title: str, out: Path, source: Path, rivals: dict[str, float]) -> Way:
    argv = [sys.executable, __file__, "--child", key.partition(".")[0], str(out), str(source)]
    return Way(key, title, argv, out, rivals, ours=True)


def shell(key: str, title: str, script: str, out: Path, *words: Path) -> Way:
    return Way(key, title, ["sh", "-c", script, str(out), *map(str, words)], out)


def present(program: str, skipped: list[str]) -> bool:
    if shutil.which(program):
        return True
    if (line := f"{program} is not installed") not in skipped:
        skipped.append(line)
    return False


def is_root(what: str, skipped: list[str]) -> bool:
    if os.geteuid() == 0:
        return True
    skipped.append(f"{what} wants root")
    return False


def truncate(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    for made in path.parent.glob(f"{path.name}*"):  # an export has files beside it
        made.unlink()


def run(argv: list[str]) -> Figure:
    """A child's time and peak memory. This process is small: a child begins with its parent's memory."""
    begin = time.monotonic()
    started = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(started.pid, 0)
    seconds = time.monotonic() - begin
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise SystemExit(f"rootfs: {' '.join(argv)} ended with {started.returncode}")
    return Figure(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024)


def report(name: str, ways: list[Way], figures: dict[str, list[Figure]]) -> None:
    entries, size = TREES[name]
    print(f"\n{name}: {size / 1e6:,.0f} MB, {entries:,} entries\n")
    print("| | s | processor s | peak MB | as fast as |\n|---|---|---|---|---|")
    for way in ways:
        found = figures[way.key]
        seconds, memory = median(found, "seconds"), max(figure.memory for figure in found)
        limit = f" (goal {MOST_MEMORY[name]}{'' if memory < MOST_MEMORY[name] else ': missed'})" if way.ours else ""
        row = [way.title, f"{seconds:.2f}", f"{median(found, 'processor'):.2f}", f"{memory}{limit}"]
        print("| " + " | ".join([*row, verdict(way, seconds, figures)]) + " |")


def verdict(way: Way, seconds: float, figures: dict[str, list[Figure]]) -> str:
    words = []
    for rival, goal in way.rivals.items():
        if rival in figures:
            ratio = median(figures[rival], "seconds") / seconds
            words.append(f"{ratio:.1f} times {rival} (goal {goal:g}{'' if ratio >= goal else ': missed'})")
    return ", ".join(words)


def median(figures: list[Figure], what: str) -> float:
    return statistics.median(getattr(figure, what) for figure in figures)


def machine() -> str:
    model = platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    return f"{model}, {os.cpu_count()} processors, Linux {platform.release()}, Python {platform.python_version()}"


def child(role: str, *paths: Path) -> None:
    subprocess.run([sys.executable, __file__, "--child", role, *map(str, paths)], check=True)


def make_tree(root: Path, name: Path) -> None:
    """Directories, links and files as images have them: many small files, half of all bytes in a few large ones."""
    entries, total = TREES[str(name)]
    rng = random.Random(4)
    words = [rng.randbytes(rng.randint(2, 7)).hex() for _ in range(3000)]
    text = " ".join(rng.choices(words, k=400_000)).encode()
    pool = text + rng.randbytes(len(text))  # half of the content can be compressed
    folders = make_folders(root, entries // 9, rng, words)
    for number in range(entries // 16):
        (rng.choice(folders) / f"link-{number}").symlink_to(f"../lib/{rng.choice(words)}")
    files = entries - entries // 9 - entries // 16
    sizes = [min(rng.lognormvariate(8, 2.1), 60e6) for _ in range(files)]
    scale = total / math.fsum(sizes)
    for number, size in enumerate(sizes):
        path = folders[int(rng.random() ** 1.5 * len(folders))] / f"{rng.choice(words)}-{number}.py"
        with path.open("wb") as file:
            left = int(size * scale)
            while left > 0:
                at = rng.randrange(len(pool) // 2)
                left -= file.write(pool[at : at + min(left, len(pool) // 2)])
    set_times(folders, rng)


def make_folders(root: Path, count: int, rng: random.Random, words: list[str]) -> list[Path]:
    root.mkdir()
    made = [root]
    while len(made) < count:
        above = root if len(made) < 12 else rng.choice(made[-400:] if len(made) % 3 else made)
        if len(above.parts) - len(root.parts) < 12:
            made.append(above / f"{rng.choice(words)}{len(made)}")
            made[-1].mkdir()
    return made


def set_times(folders: list[Path], rng: random.Random) -> None:
    """Two of three directories come from a package, whose files have one time; the others' have each its own."""
    for folder in folders:
        time_ns = rng.randrange(1_600_000_000, 1_700_000_000) * 10**9
        packaged = rng.randrange(3)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            own = 0 if packaged else rng.randrange(10**10)
            os.utime(entry.path, ns=(time_ns, time_ns + own), follow_symlinks=False)


def make_store(root: Path, source: Path) -> None:
    """A store with the image `bench`, whose layers are the tree's directories, shared out among them."""
    from firekiln.oci.config import Image  # noqa: PLC0415 - the parent stays small
    from firekiln.oci.platform import Platform  # noqa: PLC0415 - ditto
    from firekiln.rootfs import directory  # noqa: PLC0415 - ditto
    from firekiln.store import Store  # noqa: PLC0415 - ditto

    with Store.open(root) as store, directory.opened(source) as tree:
        layers = [store.layers.commit(part(tree, b"", number)) for number in range(len(SHARES))]
        digests = tuple(layer.digest for layer in layers)
        store.images.put(Image(platform=Platform.host(), diff_ids=digests), layers, references=["bench"])


def part(tree, path: bytes, layer: int):
    """What of a directory lies in a layer: files whose directory does, and directories that lead to some."""
    from firekiln.rootfs.tree import Directory  # noqa: PLC0415 - as above

    place = zlib.crc32(path) % 100
    mine = sum(SHARES[:layer]) <= place < sum(SHARES[: layer + 1])
    children = {}
    for name, node in tree.children.items():
        if isinstance(node, Directory):
            below = part(node, path + b"/" + name, layer)
            if below.children or mine:
                children[name] = below
        elif mine:
            children[name] = node
    return Directory(meta=tree.meta, children=children)


def write_erofs(out: Path, source: Path) -> None:
    from firekiln.rootfs import directory, erofs  # noqa: PLC0415 - as above

    with directory.opened(source, xattrs=True) as tree:
        erofs.write(tree, out)


def write_layer(out: Path, archive: Path) -> None:
    from firekiln.rootfs import erofs, tar  # noqa: PLC0415 - as above

    spool = out.with_name(f"{out.name}.spool")
    erofs.write(tar.read(archive, spool=spool, whiteouts=True), out)
    spool.unlink()


CHILDREN = {"tree": make_tree, "store": make_store, "erofs": write_erofs, "layer": write_layer}

if __name__ == "__main__":
    main()
