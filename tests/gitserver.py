"""A git repository served by git's own daemon on the loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_EXEC = Path((shutil.which("git") and subprocess.check_output(["git", "--exec-path"], text=True).strip()) or "/")
DAEMON = _EXEC / "git-daemon"


def git(folder: Path, *args: str) -> str:
    config = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"]}
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]
    allowed = ["-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *who, *allowed, *args], cwd=folder, env=config, check=True, capture_output=True)
    return done.stdout.decode().strip()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL under which the repositories in `folder` are found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = ["--export-all", f"--base-path={folder}", "--reuseaddr"]
    argv = [str(DAEMON), *base, "--listen=127.0.0.1", f"--port={port}", str(folder)]
    daemon = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"git://127.0.0.1:{port}"
    finally:
        daemon.terminate()
        daemon.wait()
