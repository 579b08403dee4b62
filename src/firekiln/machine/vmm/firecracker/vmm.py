"""Firecracker as a back end: it is started, jailed where it can be, configured by its API, and watched.

All its sockets and pipes lie in one folder, the jail's root or the machine's own, and have short names there, relative
to Firecracker's working folder: no path is too long for a socket, and clones of a snapshot each find their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import field
from pathlib import Path
from types import TracebackType
from typing import Final

from firekiln.errors import MachineError
from firekiln.machine.guest.channel import Vsock
from firekiln.machine.network.link import Links
from firekiln.machine.vmm.backend import Guest, Saved, program_identity, spawn
from firekiln.machine.vmm.firecracker import vsock
from firekiln.machine.vmm.firecracker.client import ApiError, Client, connect
from firekiln.machine.vmm.firecracker.configuration import START, Request, configuration, requests
from firekiln.machine.vmm.firecracker.devices import Devices
from firekiln.machine.vmm.firecracker.jailer import (
    API_SOCKET,
    LOG,
    VSOCK,
    Jail,
    jailed,
    jailer_argv,
    make_tree,
    remove_groups,
    remove_tree,
)
from firekiln.machine.vmm.firecracker.keeper import kept
from firekiln.machine.vmm.firecracker.version import HINT
from firekiln.machine.vmm.spec import MachineSpec
from firekiln.values import dataclass

PROGRAM: Final = "firecracker"
_FOLDER: Final = "firecracker"
_SHOWN: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Jailing:
    """A jail, and the folders of the control groups' hierarchies in which the jailer makes groups."""

    jail: Jail
    groups: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Firecracker:
    """Firecracker for one machine, whose own folder is `folder`. Without `jailing` it runs as this user, with its
    seccomp filters only.
    """

    folder: Path
    devices: Devices = field(default_factory=Devices)
    jailing: Jailing | None = None
    timeout: float = 5.0
    """Seconds that its API may take to come up, and for each answer."""
    executable: str = PROGRAM
    name: str = field(default="firecracker", init=False)
    channel: Vsock = field(default_factory=Vsock, init=False)

    def identity(self) -> str:
        return firecracker_identity(self.executable)

    def launch(self, spec: MachineSpec) -> Guest:
        """As Vmm says. The guest's `channel` is a listening socket, until the guest has connected to it."""
        with ExitStack() as held:
            where, inside, argv = self._prepare(spec, held)
            owner = (self.jailing.jail.uid, self.jailing.jail.gid) if self.jailing else None
            listener = vsock.listen(where, VSOCK, self.channel.port, owner=owner)
            held.callback(listener.close)
            complaints = os.open(where / LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            reading = held.enter_context(os.fdopen(complaints, "rb", buffering=0))
            owner_of_taps = self.jailing.jail.uid if self.jailing else os.geteuid()
            links = held.enter_context(Links(spec, tap_user=owner_of_taps))
            links.started()
            # Standard error goes the way of the log: a panic of Firecracker's own is told there.
            writer = os.open(where / LOG, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                process = spawn(argv, cwd=where, stderr=writer, hint=HINT)
            finally:
                os.close(writer)
            held.callback(_end, process)
            if self.jailing:
                held.enter_context(kept(process.pid))
            client = self._configure(where, inside, process, reading.fileno())
            held.callback(client.close)
            assert process.stdout is not None
            return FirecrackerGuest(
                process=process,
                console=process.stdout,
                complaints=reading,
                channel=listener,
                is_listening=True,
                links=links,
                client=client,
                held=held.pop_all(),
            )

    def restore(self, spec: MachineSpec, saved: Saved) -> Guest:
        """Its requests are `snapshot.load`'s; none of our machines is one of its snapshots yet."""
        raise MachineError(
            f"{spec.name}: machines of Firecracker cannot be started from {saved.state.parent.name} yet",
            hint="run it by QEMU (--vmm qemu)",
        )

    def _prepare(self, spec: MachineSpec, held: ExitStack) -> tuple[Path, MachineSpec, Sequence[str]]:
        """The folder of its sockets, the machine as it sees it, and the command line."""
        arguments = firecracker_arguments()
        if self.jailing is None:
            where = self.folder / _FOLDER
            shutil.rmtree(where, ignore_errors=True)
            where.mkdir(mode=0o700)
            held.callback(shutil.rmtree, where, ignore_errors=True)
            os.mkfifo(where / LOG, 0o600)
            return where, spec, [self.executable, "--id", spec.name, *arguments]
        jail = self.jailing.jail
        inside, placed = jailed(spec)
        held.callback(remove_groups, jail, self.jailing.groups)
        make_tree(jail, placed)
        held.callback(remove_tree, jail)
        return jail.root, inside, jailer_argv(jail, spec, arguments)

    def _configure(self, where: Path, spec: MachineSpec, process: subprocess.Popen[bytes], complaints: int) -> Client:
        """Have the API configure and start the machine. A MachineError tells what Firecracker itself said."""
        try:
            client = connect(where, API_SOCKET, timeout=self.timeout, is_alive=lambda: process.poll() is None)
            try:
                send_all(client, [*requests(configuration(spec, self.devices, vsock=VSOCK)), START])
            except BaseException:
                client.close()
                raise
        except ApiError:
            raise
        except MachineError as error:
            said = _last_line(complaints)
            raise MachineError(f"{error.message}: {said}" if said else error.message, hint=error.hint) from error
        return client


def firecracker_identity(executable: str) -> str:
    """Which Firecracker is installed. MissingProgramError where none is."""
    return program_identity(shutil.which(executable), PROGRAM, hint=HINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirecrackerGuest(Guest):
    """A running Firecracker. By its `client` snapshots are made."""

    client: Client
    held: ExitStack

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.held.close()


def firecracker_arguments() -> Sequence[str]:
    """Firecracker's own arguments. Names are relative to its working folder, in the jail `/`.

    The log is a FIFO, which it opens without blocking: what nobody reads is lost, and counted by it.
    """
    return (*("--api-sock", API_SOCKET), *("--log-path", LOG), *("--level", "Warning"))


def send_all(client: Client, wanted: Sequence[Request]) -> None:
    """Send requests one by one. ApiError at the first that is refused."""
    for request in wanted:
        client.send(request)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _last_line(complaints: int) -> str:
    try:
        text = os.read(complaints, 1 << 16)[-_SHOWN:].decode(errors="replace")
    except BlockingIOError:
        return ""
    lines = ["".join(char for char in line if char.isprintable()).strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")
