"""A Docker Engine of its own for tests: Debian's dockerd in a mount namespace, on a socket and folders of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path

import pytest

DOCKERD = shutil.which("dockerd", path=f"/usr/sbin{os.pathsep}{os.environ['PATH']}")
_SECONDS = 30

needs_dockerd = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="dockerd needs root"),
    pytest.mark.skipif(DOCKERD is None, reason="needs docker.io"),
]


def docker_client() -> Path:
    """Docker's command line, one that can build with BuildKit: it has buildx, or is so old that it needs none."""
    for folder in os.environ["PATH"].split(os.pathsep):
        program = Path(folder) / "docker"
        if program.exists():
            old = subprocess.run([program, "--version"], capture_output=True, check=True).stdout.split()[2] < b"23"
            if old or not subprocess.run([program, "buildx", "version"], capture_output=True, check=False).returncode:
                return program
    pytest.skip("needs Docker's client, with buildx")


@contextlib.contextmanager
def running_engine(folder: Path):
    """An engine; `DOCKER_HOST` of the value is its address. Nothing of it is left afterwards."""
    group = f"/firekiln-test-{secrets.token_hex(4)}"
    # Sockets' paths are limited to 107 bytes, and pytest's folders are long.
    socket = Path(f"/tmp/firekiln-{secrets.token_hex(4)}.sock")
    argv = ["unshare", "--mount", "--propagation", "private", DOCKERD, "--cgroup-parent", group]
    argv += ["--data-root", folder / "data", "--exec-root", folder / "exec", "-p", folder / "pid"]
    argv += ["-H", f"unix://{socket}", "--iptables=false", "--bridge=none"]
    argv += ["--exec-opt", "native.cgroupdriver=cgroupfs"]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(daemon, socket, folder / "log")
        yield f"unix://{socket}"
    finally:
        daemon.terminate()
        try:
            daemon.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(daemon.pid, 9)
            daemon.wait()
        socket.unlink(missing_ok=True)
        _remove_groups(group)
        shutil.rmtree(folder)


def _wait(daemon, socket, log):
    import docker

    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline and daemon.poll() is None:
        with contextlib.suppress(docker.errors.DockerException):
            client = docker.APIClient(base_url=f"unix://{socket}", timeout=5)
            try:
                client.ping()
                return
            finally:
                client.close()
        time.sleep(0.1)
    raise AssertionError(f"dockerd does not start: {log.read_text()[-500:]}")


def _remove_groups(group):
    top = Path("/sys/fs/cgroup")
    for place in (top / group[1:], *top.glob(f"*{group}")):
        for folder, _, _ in os.walk(place, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
