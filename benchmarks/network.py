#!/usr/bin/env python3
"""How fast bytes go to a machine and from it, by a published port: the user network, the kernel's bridge.

    benchmarks/network.py --root STORE [--image busybox] [--megabytes 64] [--rounds 3]

IMAGE has busybox's `nc` and `sh`. As root the bridge is measured too; run it in a network namespace of its own, and
nothing of the host's network is touched: unshare --net sh -c 'ip link set lo up; …'
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

SERVICE = "while :; do echo x | nc -l -p 7000 >/dev/null; done & while :; do nc -l -p 7001 </dev/zero; done"
PIECE = bytes(1 << 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--image", default="busybox")
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    command = [sys.executable, "-m", "firekiln", "--root", given.root]
    ways: list[tuple[str, list[str]]] = [("user network, carrier", [])]
    if os.geteuid() == 0:
        ways.append(("bridge of the kernel", ["--network", "bridge"]))
    print(f"{'':24} {'to the machine':>16} {'from it':>12}   MB/s")
    for name, flags in ways:
        with machine(command, given.image, flags) as (inward, outward):
            to = statistics.median(send(inward, given.megabytes) for _ in range(given.rounds))
            back = statistics.median(receive(outward, given.megabytes) for _ in range(given.rounds))
        print(f"{name:24} {to:16.0f} {back:12.0f}")


@contextmanager
def machine(command: Sequence[str], image: str, flags: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The host's ports by which it takes bytes, and gives them."""
    argv = [*command, "run", "-d", *flags, "-p", "7000", "-p", "7001", image, "sh", "-c", SERVICE]
    name = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    try:
        lines = subprocess.run([*command, "port", name], check=True, capture_output=True, text=True).stdout.split("\n")
        ports = [int(line.rpartition(":")[2]) for line in lines if line]
        yield ports[0], ports[1]
    finally:
        subprocess.run([*command, "rm", "-f", name], check=True, capture_output=True)


def send(port: int, megabytes: int) -> float:
    """MB/s until the machine has acknowledged all of it, and the end."""
    with connected(port) as stream:
        begun = time.perf_counter()
        for _ in range(megabytes * (1 << 20) // len(PIECE)):
            stream.sendall(PIECE)
        stream.shutdown(socket.SHUT_WR)
        stream.recv(1)
        return megabytes * (1 << 20) / 1e6 / (time.perf_counter() - begun)


def receive(port: int, megabytes: int) -> float:
    """MB/s of what it sends."""
    with connected(port) as stream:
        begun, left = time.perf_counter(), megabytes << 20
        while left > 0:
            left -= len(stream.recv(1 << 18))
        return megabytes * (1 << 20) / 1e6 / (time.perf_counter() - begun)


def connected(port: int) -> socket.socket:
    """A connection that the machine's own process has taken, and said so by a byte: nc is started anew for each."""
    deadline = time.monotonic() + 30
    while True:
        try:
            stream = socket.create_connection(("127.0.0.1", port), timeout=60)
            if stream.recv(1):
                return stream
            stream.close()
        except OSError:  # nobody listens yet
            pass
        if time.monotonic() > deadline:
            raise SystemExit("the machine's service does not answer")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
