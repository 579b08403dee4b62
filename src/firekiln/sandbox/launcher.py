"""Starts the spawner (`spawner.py`) and speaks with it. Safe to use from several threads."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

import firekiln
from firekiln.errors import SandboxError
from firekiln.sandbox import mounts
from firekiln.sandbox.request import DESCRIPTORS, Request

_START_SECONDS: Final = 20
_END_SECONDS: Final = 5
_MAIN: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from firekiln.sandbox.spawner import main; main()"  # -S: no site
)


class Launcher:
    """One spawner process. `close` ends it, every step of it and every mount; so does this process's end."""

    def __init__(self, folder: Path, *, hold: Callable[[int], None] = lambda _: None) -> None:
        """Start it; `folder` is any directory. SandboxError where the host does not allow it.

        `hold` is given its process id while it starts, to limit it; what it raises ends it.
        """
        self._lock = threading.Lock()
        self._numbers: dict[Path, int] = {}
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = os.memfd_create("firekiln-spawner", os.MFD_CLOEXEC)
        watched = os.pidfd_open(os.getpid())
        package = str(Path(firekiln.__file__).parent.parent)
        argv = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _MAIN, package]
        try:
            self._process = subprocess.Popen(
                [*argv, str(theirs.fileno()), str(watched), str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                cwd="/",
                env={},
                start_new_session=True,
                pass_fds=(theirs.fileno(), watched),
            )
        except OSError as error:
            self._control.close()
            os.close(self._errors)
            raise SandboxError(f"cannot start {sys.executable}: {error.strerror}") from error
        finally:
            theirs.close()
            os.close(watched)
        try:
            hold(self._process.pid)
        except BaseException:
            self.close()
            raise
        self._await_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def layers(self, paths: Sequence[Path]) -> tuple[int, ...]:
        """The numbers under which the spawner knows these layers; new ones are mounted first. SandboxError."""
        with self._lock:
            return tuple(self._layer(path) for path in paths)

    def start(self, request: Request, channel: socket.socket, descriptors: Sequence[int]) -> None:
        """Start a step. Its reports come over the other end of `channel`; `descriptors` are stdout, stderr, the
        working area, what `Attached` mounts count, and the control groups. The caller keeps and closes its own copies.
        """
        if len(descriptors) + 2 > DESCRIPTORS:
            raise SandboxError(f"a step can have at most {DESCRIPTORS - 5} mounts")
        body = os.memfd_create("firekiln-step", os.MFD_CLOEXEC)
        with os.fdopen(body, "wb") as file:
            file.write(request.encode())
            file.flush()
            with self._lock:
                self._send(b"step", (body, channel.fileno(), *descriptors))

    def close(self) -> None:
        """Idempotent."""
        self._control.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1

    def last_words(self) -> str:
        """The last line that the spawner wrote before it broke, or nothing."""
        text = os.pread(self._errors, 1 << 20, 0).decode(errors="replace").strip()
        return text.rpartition("\n")[2]

    def _layer(self, path: Path) -> int:
        number = self._numbers.get(path)
        if number is None:
            mount = mounts.layer(path)
            try:
                number = len(self._numbers)
                self._send(f"layer {number}".encode(), (mount,))
            finally:
                os.close(mount)
            self._numbers[path] = number
        return number

    def _send(self, message: bytes, descriptors: Sequence[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
        try:
            self._control.sendmsg([message], rights)
        except OSError as error:
            raise SandboxError(f"the process that runs steps is gone: {self.last_words() or error.strerror}") from error

    def _await_ready(self) -> None:
        self._control.settimeout(_START_SECONDS)
        answer = b""
        with contextlib.suppress(OSError):
            answer = self._control.recv(16)
        self._control.settimeout(None)
        if not answer:
            reason = self.last_words()
            self.close()
            raise SandboxError(
                f"cannot isolate steps on this host: {reason or 'no answer'}",
                hint="RUN needs root, or a container that may mount and unshare (CAP_SYS_ADMIN)",
            )
