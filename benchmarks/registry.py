#!/usr/bin/env python3
"""How long an image of 200 MB takes to and from a registry on this host, beside skopeo and Docker.

usage: .venv/bin/python benchmarks/registry.py [--rounds N] [--size MB]

Debian's docker-registry holds the image, its data on a tmpfs. The ways take turns in each round. `pull` ends with an
image that boots (an EROFS file each layer), skopeo's with an OCI layout, Docker's with unpacked layers. What is not
installed is left out, and said. Prints a Markdown table with medians, ratios and peaks of memory.
"""

import argparse
import contextlib
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform
from firekiln.rootfs import directory
from firekiln.store import Store
from registries import docker_registry

LAYERS = 4
FIREKILN = [sys.executable, "-m", "firekiln"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=200, metavar="MB")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        (work / "registry").mkdir()
        host = stack.enter_context(docker_registry(work / "registry")).host
        name = f"{host}/bench/app:1"
        print(
            f"{options.size} MB in {LAYERS} layers, {platform.processor() or platform.machine()}, "
            f"{os.cpu_count()} cores, Linux {platform.release()}\n"
        )
        make_image(work / "store", name, options.size)
        run([*FIREKILN, "--root", work / "store", "push", "-q", name])  # the tars are remembered from now on
        ways = {**pulls(work, name), **pushes(work, name, stack.enter_context(contextlib.ExitStack()))}
        if docker := stack.enter_context(dockerd(work)):
            ways["`docker pull`"] = docker_pull(docker, name)
        figures = measure(ways, options.rounds)
    report(figures)


def make_image(store: Path, name: str, megabytes: int) -> None:
    """Files as packages have them: half noise, half zeros, 40 KB each."""
    noise = random.Random(1)
    with Store.open(store) as opened, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        layers = []
        for layer in range(LAYERS):
            root = Path(folder, str(layer))
            for number in range(megabytes * 1000 // LAYERS // 40):
                path = root / f"d{number % 50}" / f"{layer}-{number}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(noise.randbytes(20_000) + bytes(20_000))
            layers.append(opened.layers.commit(directory.read(root)))
        image = Image(
            platform=Platform.host(), config=ImageConfig(cmd=("/x",)), diff_ids=tuple(x.digest for x in layers)
        )
        opened.images.put(image, layers, references=[name])


def pulls(work: Path, name: str) -> dict[str, Callable[[], list]]:
    def firekiln() -> list:
        shutil.rmtree(work / "pulled", ignore_errors=True)
        return [*FIREKILN, "--root", work / "pulled", "pull", "-q", name]

    def skopeo() -> list:
        shutil.rmtree(work / "layout", ignore_errors=True)
        return ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{work}/layout:1"]

    return {"`firekiln pull`": firekiln, **({"`skopeo copy` to a layout": skopeo} if shutil.which("skopeo") else {})}


def pushes(work: Path, name: str, registries: contextlib.ExitStack) -> dict[str, Callable[[], list]]:
    """Each to a registry that is new: skopeo remembers where blobs are, and would have them mounted."""
    number = iter(range(10_000))

    def fresh() -> str:
        registries.close()
        shutil.rmtree(work / "fresh", ignore_errors=True)
        (work / "fresh").mkdir()
        return f"{registries.enter_context(docker_registry(work / 'fresh')).host}/fresh/p{next(number)}:1"

    def firekiln() -> list:
        target = fresh()
        run([*FIREKILN, "--root", work / "store", "tag", name, target])
        return [*FIREKILN, "--root", work / "store", "push", "-q", target]

    def skopeo() -> list:
        return ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{work}/source:1", f"docker://{fresh()}"]

    def skopeo_compressing() -> list:
        return ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{work}/plain:1", f"docker://{fresh()}"]

    def again() -> list:
        return [*FIREKILN, "--root", work / "store", "push", "-q", name]

    ways: dict[str, Callable[[], list]] = {"`firekiln push`": firekiln, "`firekiln push`, there already": again}
    if shutil.which("skopeo"):
        plain = f"{name.partition('/')[0]}/plain/app:1"
        run([*FIREKILN, "--root", work / "store", "tag", name, plain])
        run([*FIREKILN, "--root", work / "store", "push", "-q", "--compression", "none", plain])
        run(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{plain}", f"oci:{work}/plain:1"])
        run(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{work}/source:1"])
        ways["`skopeo copy` from a layout of plain tars, which it compresses"] = skopeo_compressing
        ways["`skopeo copy` from a layout of compressed tars"] = skopeo
    return ways


@contextlib.contextmanager
def dockerd(work: Path) -> Iterator[list[str] | None]:
    """A daemon of its own on a socket of its own, where there is one and we are root."""
    if os.geteuid() or not shutil.which("dockerd") or not shutil.which("docker"):
        print("Docker is left out: no dockerd, or not root.\n")
        yield None
        return
    address = f"unix://{work}/docker.sock"
    argv = [
        "dockerd",
        "--cgroup-parent",
        "/firekiln-bench",
        "--data-root",
        work / "docker",
        "--exec-root",
        work / "exec",
    ]
    argv += ["-H", address, "--iptables=false", "--bridge=none", "-p", work / "docker.pid"]
    with (work / "docker.log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as daemon:
        docker = ["docker", "-H", address]
        try:
            for _ in range(100):
                if subprocess.run([*docker, "info"], capture_output=True, check=False).returncode == 0:
                    break
                time.sleep(0.1)
            yield docker
        finally:
            daemon.terminate()


def docker_pull(docker: list[str], name: str) -> Callable[[], list]:
    def pull() -> list:
        subprocess.run([*docker, "rmi", "-f", name], capture_output=True, check=False)
        return [*docker, "pull", "-q", name]

    return pull


def measure(ways: dict[str, Callable[[], list]], rounds: int) -> dict[str, tuple[list[float], int]]:
    figures: dict[str, tuple[list[float], int]] = {way: ([], 0) for way in ways}
    for number in range(-1, rounds):  # the first round fills caches and is not counted
        for way, prepare in ways.items():
            argv = prepare()
            seconds, peak = timed(argv)
            if number >= 0:
                figures[way][0].append(seconds)
                figures[way] = (figures[way][0], max(figures[way][1], peak))
    return figures


def timed(argv: list) -> tuple[float, int]:
    """Seconds, and the peak of the process's resident memory in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen([str(word) for word in argv], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{argv} ended with status {process.returncode}")
    return seconds, usage.ru_maxrss * 1024


def run(argv: list) -> None:
    subprocess.run([str(word) for word in argv], check=True, stdout=subprocess.DEVNULL)


def report(figures: dict[str, tuple[list[float], int]]) -> None:
    print("| way | seconds | as fast as `firekiln` | peak memory |\n|---|---|---|---|")
    for way, (times, peak) in figures.items():
        mine = "`firekiln pull`" if "pull" in way or "to a" in way else "`firekiln push`"
        seconds = statistics.median(times)
        ratio = statistics.median(figures[mine][0]) / seconds
        memory = "(the daemon's)" if "docker" in way else f"{peak / 1e6:.0f} MB"
        print(f"| {way} | {seconds:.2f} | {ratio:.2f} | {memory} |")


if __name__ == "__main__":
    main()
