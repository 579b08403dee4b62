"""What a VMM back end is: it takes a MachineSpec and gives a running guest. QEMU's is `qemu`."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from firekiln.errors import MachineError, MissingProgramError
from firekiln.machine.guest.channel import Channel
from firekiln.machine.network.link import Links
from firekiln.machine.vmm.spec import MachineSpec
from firekiln.values import dataclass

QEMU_HINT = "apt-get install qemu-system-x86 (Debian, Ubuntu)"
_PR_SET_PDEATHSIG = 1


class Vmm(Protocol):
    """A program that runs machines."""

    @property
    def name(self) -> str: ...

    @property
    def channel(self) -> Channel:
        """What carries the agent's channel in its guests."""
        ...

    def identity(self) -> str:
        """Which program this is: changes whenever another version is installed. MissingProgramError where absent."""
        ...

    def launch(self, spec: MachineSpec) -> Guest:
        """Start the guest. It dies with the thread that calls this."""
        ...

    def restore(self, spec: MachineSpec, saved: Saved) -> Guest:
        """The guest as it was when it was saved, its processors stopped until `resume`. It dies as one of `launch`.

        `spec` must be of the same devices. MachineError where it can't be.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A guest's memory, and the state of its devices. Neither file is changed by those who start from it."""

    memory: Path
    state: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A VMM's running process: its console (what the guest writes to the serial port), what it says on stderr, and the
    host's end of the agent's channel: where `is_listening`, a socket that the guest is yet to connect to. Leaving the
    context kills it, and takes down the `links` to its networks.
    """

    process: subprocess.Popen[bytes]
    console: IO[bytes]
    complaints: IO[bytes]
    channel: socket.socket
    is_listening: bool = False
    links: Links | None = None

    def save(self, state: Path) -> int:
        """Stop the processors, and write the devices' state to a new file; a descriptor of the guest's memory, which
        stays ours. MachineError where it can't be saved; then the processors may be stopped all the same.
        """
        raise MachineError(f"this machine cannot be saved: {state}", hint="run it by QEMU (--vmm qemu)")

    def resume(self) -> None:
        """Let the processors go on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.console.close()
        self.complaints.close()
        self.channel.close()
        if self.links is not None:
            self.links.close()


def spawn(
    argv: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    stderr: int = subprocess.PIPE,
    hint: str = QEMU_HINT,
) -> subprocess.Popen[bytes]:
    """Start a VMM that is killed when the calling thread ends, however it ends.

    MissingProgramError with that hint where it is absent.
    """
    # Loaded here: the child, between fork and exec, must not do more than two system calls.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before the kernel knew
            os._exit(1)

    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C is for the supervisor, which stops the guest in order
            preexec_fn=die_with_parent,  # noqa: PLW1509 - two system calls; the only way to PR_SET_PDEATHSIG
        )
    except FileNotFoundError as error:
        raise missing(argv[0], hint) from error


def found_program(program: str) -> str | None:
    """As `shutil.which`, which every supervisor would load bzip2 and LZMA with."""
    for folder in os.get_exec_path():
        path = os.path.join(folder, program)  # noqa: PTH118 - a str
        if os.access(path, os.X_OK) and not os.path.isdir(path):  # noqa: PTH112 - a str
            return path
    return None


def program_identity(path: str | None, program: str, *, hint: str = QEMU_HINT) -> str:
    """A program file's identity, without the cost of running it: its place, size and time of installation."""
    if path is None:
        raise missing(program, hint)
    status = Path(path).stat()
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"


def missing(program: str, hint: str) -> MissingProgramError:
    return MissingProgramError(f"{program} is not on this host", hint=hint)
