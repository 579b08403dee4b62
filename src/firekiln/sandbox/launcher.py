"""Starts the spawner (`spawner.py`) and speaks with it. Safe to use from several threads."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

import firekiln
from firekiln.errors import SandboxError
from firekiln.sandbox.authority import Authority, RootAuthority, Waiting
from firekiln.sandbox.control import send
from firekiln.sandbox.idmap import IdMap
from firekiln.sandbox.request import DESCRIPTORS, Request
from firekiln.values import dataclass

_START_SECONDS: Final = 20
_END_SECONDS: Final = 5
_MAIN: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from firekiln.sandbox.spawner import main; main()"  # -S: no site
)


_FORBIDDEN: Final = (
    "user namespaces are forbidden to us, perhaps by a container's seccomp profile or AppArmor; or run firekiln as root"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rootless:
    """What steps without root's rights need: the ids of their namespace, and a folder for layers as directories."""

    ids: IdMap
    snapshots: Path


class Launcher:
    """One spawner process. `close` ends it, every step of it and every mount; so does this process's end."""

    authority: Authority

    def __init__(
        self, folder: Path, *, hold: Callable[[int], None] = lambda _: None, rootless: Rootless | None = None
    ) -> None:
        """Start it; `folder` is any directory. SandboxError where the host does not allow it.

        `hold` is given its process id while it starts, to limit it; what it raises ends it.
        """
        self._rootless = rootless
        self._held = ExitStack()
        self._lock = threading.Lock()
        self._mounting = threading.Lock()
        self._numbers: dict[Path, int] = {}
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = os.memfd_create("firekiln-spawner", os.MFD_CLOEXEC)
        watched = os.pidfd_open(os.getpid())
        self.authority, more, passed = self._authority(folder)
        package = str(Path(firekiln.__file__).parent.parent)
        argv = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _MAIN, package]
        try:
            self._process = subprocess.Popen(
                [*argv, str(theirs.fileno()), str(watched), str(folder), *more],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                cwd="/",
                env={},
                start_new_session=True,
                pass_fds=(theirs.fileno(), watched, *(one.fileno() for one in passed)),
            )
        except OSError as error:
            self._held.close()
            self._control.close()
            os.close(self._errors)
            raise SandboxError(f"cannot start {sys.executable}: {error.strerror}") from error
        finally:
            for one in (theirs, *passed):
                one.close()
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

    def layers(self, paths: Sequence[Path], waiting: Waiting) -> tuple[int, ...]:
        """The numbers under which the spawner knows these layers; new ones are mounted first. SandboxError."""
        with self._mounting:
            return tuple(self._layer(path, waiting) for path in paths)

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
        self._held.close()
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

    def _authority(self, folder: Path) -> tuple[Authority, list[str], list[socket.socket]]:
        """Who mounts, and what the spawner is told and given for that."""
        if self._rootless is None:
            return RootAuthority(folder), [], []
        from firekiln.sandbox.delegate import Delegate  # noqa: PLC0415 - root has no use for it

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        delegate = Delegate(ours, self._rootless.ids, self._rootless.snapshots, folder, self._gone)
        self._held.callback(delegate.close)
        words = [self._rootless.ids.encode(), str(theirs.fileno()), os.pathsep.join(sys.path)]
        return delegate, words, [theirs]

    def _gone(self) -> SandboxError:
        return SandboxError(f"the process that keeps the namespace of steps is gone: {self.last_words() or 'killed'}")

    def _layer(self, path: Path, waiting: Waiting) -> int:
        number = self._numbers.get(path)
        if number is None:
            mount = self.authority.layer(path, waiting)
            try:
                number = len(self._numbers)
                with self._lock:
                    self._send(f"layer {number}".encode(), (mount,))
            finally:
                os.close(mount)
            self._numbers[path] = number
        return number

    def _send(self, message: bytes, descriptors: Sequence[int]) -> None:
        try:
            send(self._control, message, descriptors)
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
                hint=_FORBIDDEN if self._rootless else "a container needs --privileged, or user namespaces allowed",
            )
