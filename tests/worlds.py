"""A host with a network of its own, and a world beyond it: two network namespaces, joined by a cable.

In the world 203.0.113.9 and the metadata service's address answer; on the host a service listens on all addresses, of
which 203.0.113.1 is one. Nothing of it is seen outside, and nothing outside is reached from within.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

import isolation

HOST, WORLD, METADATA = "203.0.113.1", "203.0.113.9", "169.254.169.254"
HOST_PORT = 8111

needed = [
    isolation.needs_root,
    pytest.mark.skipif(not shutil.which("ip"), reason="needs iproute2"),
    pytest.mark.skipif(not shutil.which("nft"), reason="needs nftables"),
]

SERVER = """
import socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=64)
print("ready", flush=True)
while True:
    client, _ = server.accept()
    with client:
        client.sendall(sys.argv[2].encode())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What runs with `words` before it runs on the host."""

    words: tuple[str, ...]

    def run(self, *argv: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [*self.words, *map(str, argv)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)

    def checked(self, *argv: object) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout.strip()

    def python(self, code: str, *arguments: object) -> str:
        return self.checked(sys.executable, "-c", code, *arguments)


@contextmanager
def _namespace() -> Iterator[tuple[str, ...]]:
    """The words that run something in a new network namespace."""
    argv = ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 3600"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as keeper:
        try:
            assert keeper.stdout is not None
            assert keeper.stdout.readline() == b"ready\n"
            yield ("nsenter", f"--net=/proc/{keeper.pid}/ns/net")
        finally:
            keeper.kill()


@contextmanager
def _serving(words: tuple[str, ...], port: int, text: str) -> Iterator[None]:
    argv = [*words, sys.executable, "-c", SERVER, str(port), text]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield
        finally:
            server.kill()


@contextmanager
def world() -> Iterator[Host]:
    """The host, with a world beyond it."""
    with _namespace() as host, _namespace() as beyond:
        keeper = beyond[1].split("/")[2]
        lines = [
            (*host, "ip", "link", "set", "lo", "up"),
            (*host, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "w0", "netns", keeper),
            (*host, "ip", "addr", "add", f"{HOST}/24", "dev", "up0"),
            (*host, "ip", "link", "set", "up0", "up"),
            (*host, "ip", "route", "add", "default", "via", WORLD),
            (*beyond, "ip", "link", "set", "lo", "up"),
            (*beyond, "ip", "addr", "add", f"{WORLD}/24", "dev", "w0"),
            (*beyond, "ip", "addr", "add", f"{METADATA}/32", "dev", "w0"),
            (*beyond, "ip", "link", "set", "w0", "up"),
        ]
        for line in lines:
            subprocess.run(line, check=True)
        with _serving(beyond, 80, "world"), _serving(host, HOST_PORT, "host"):
            yield Host(words=host)
