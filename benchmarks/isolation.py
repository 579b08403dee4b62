"""A build of five steps, in namespaces and in a machine: seconds of a cold build, and of one step more.

    python benchmarks/isolation.py STORE [ROUNDS]

STORE is a store with a kernel (its kernels are copied, nothing else of it is touched). Needs busybox-static.
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import firekiln

BASE = 'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
STEPS = "".join(f"RUN echo {number} >/{number}; ls -lR / >/list{number} 2>/dev/null; true\n" for number in range(4))


def measure(isolation: str, kernels: Path) -> tuple[float, float]:
    """The cold build, and then the same with one step more."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(kernels, folder / "store/kernels")
        (folder / "context").mkdir()
        shutil.copy("/bin/busybox", folder / "context/busybox")
        times = []
        for text in (BASE + STEPS, BASE + STEPS + "RUN true\n"):
            start = time.monotonic()
            firekiln.build(folder / "context", dockerfile=text.encode(), store=folder / "store", isolation=isolation)
            times.append(time.monotonic() - start)
        return times[0], times[1]


def main() -> None:
    kernels = Path(sys.argv[1]) / "kernels"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    measure("vm", kernels)  # what is made once for a kernel, and whether KVM works
    for isolation in ("process", "vm"):
        results = [measure(isolation, kernels) for _ in range(rounds)]
        cold, more = (statistics.median(column) for column in zip(*results, strict=True))
        print(f"{isolation:8} five steps {cold:6.2f} s   one step more {more:6.2f} s")


main()
