"""QEMU as a back end: virtio over MMIO on a bare machine (see `boards`), which enters the kernel without firmware.

Which options are there, and which are not, was measured; what costs time is said beside them. The command line is made
by a pure function, `qemu_argv`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import field
from pathlib import Path
from types import TracebackType

from firekiln.errors import MachineError
from firekiln.machine.guest.channel import SerialPort
from firekiln.machine.network.link import Links
from firekiln.machine.vmm.backend import Guest, Saved, found_program, program_identity, spawn
from firekiln.machine.vmm.boards import MICROVM, Board, board_of
from firekiln.machine.vmm.monitor import Monitor
from firekiln.machine.vmm.spec import MIB, Accelerator, BlockDevice, DriveLimit, MachineSpec, Nic, SharedFolder
from firekiln.oci.config import Json
from firekiln.store.durable import store_errors
from firekiln.values import dataclass

BARE = ("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot")

SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
"""Seccomp: a guest that breaks out of the VMM can neither run programs nor gain privileges."""

GUEST_MODULES = "virtio_mmio virtio_blk virtio_console virtio_net virtio_rng overlay erofs ext4".split()
"""What its guests need of the kernel; what the kernel has built in is not among its modules."""

_FAREWELL = 2.0

_LIMIT = "limit"
_ERRORS = "rerror=report,werror=report"
"""The guest is told of a read or write that fails. Else a full disk of the host would stop the machine, for ever."""

_WORDS = ("panic=-1", "net.ifnames=0", "cryptomgr.notests")
COMMAND_LINE = (f"console={MICROVM.console}", "quiet", *MICROVM.restart, *_WORDS)
"""A guest resets itself when it is done or has panicked, and `-no-reboot` makes that QEMU's end. (x86-64's words.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Qemu:
    """QEMU with an accelerator. `tsc_khz` is the host's, which TCG's guests must be told; None where unknown."""

    accelerator: Accelerator
    tsc_khz: int | None = None
    board: Board = MICROVM
    name: str = field(default="qemu", init=False)
    channel: SerialPort = field(default_factory=SerialPort, init=False)

    def identity(self) -> str:
        return identity(self.board)

    def launch(self, spec: MachineSpec) -> Guest:
        with ExitStack() as undo:
            # Shared with this process, which can so copy what the guest has in it. Pages come into being when touched.
            memory = os.memfd_create("firekiln-memory", os.MFD_CLOEXEC)
            undo.callback(os.close, memory)
            os.ftruncate(memory, _size(spec))
            guest = self._spawn(spec, undo, Memory(path=f"/proc/self/fd/{memory}", shared=True), fds=(memory,))
            undo.pop_all()
            return guest

    def restore(self, spec: MachineSpec, saved: Saved) -> Guest:
        with ExitStack() as undo:
            with store_errors(saved.state, "cannot read"):
                state = os.open(saved.state, os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, state)
            # Each guest has pages of its own once it writes to them; what none does, all have from the page cache.
            guest = self._spawn(spec, undo, Memory(path=str(saved.memory), shared=False), restored=True)
            try:
                guest.monitor.load(state)
            except MachineError as error:
                said = guest.last_words()
                raise MachineError(f"{error.message}: {said}" if said else error.message, hint=error.hint) from error
            os.close(state)
            undo.pop_all()
            return guest

    def _spawn(
        self,
        spec: MachineSpec,
        undo: ExitStack,
        memory: Memory,
        *,
        fds: Sequence[int] = (),
        restored: bool = False,
    ) -> QemuGuest:
        channel, theirs = socket.socketpair()
        undo.callback(channel.close)
        connection, monitor = socket.socketpair()
        undo.callback(connection.close)
        links = undo.enter_context(Links(spec))
        with theirs, monitor:
            argv = qemu_argv(
                spec,
                accelerator=self.accelerator,
                tsc_khz=self.tsc_khz,
                channel_fd=theirs.fileno(),
                monitor_fd=monitor.fileno(),
                nic_fds=links.fds,
                memory=memory,
                restored=restored,
            )
            inherited = [theirs.fileno(), monitor.fileno(), *links.inherited, *fds]
            process = spawn(argv, pass_fds=inherited, hint=board_of(spec.architecture).hint)
        links.started()
        assert process.stdout is not None
        assert process.stderr is not None
        guest = QemuGuest(
            process=process,
            console=process.stdout,
            complaints=process.stderr,
            channel=channel,
            links=links,
            connection=connection,
            monitor=Monitor(connection),
            memory=fds[0] if fds else -1,
        )
        undo.callback(guest.end)
        return guest


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The file that is the guest's memory. One that is not `shared` is read only: what the guest writes is its own."""

    path: str
    shared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuGuest(Guest):
    """A running QEMU, its monitor, and the descriptor of its memory, -1 where that is a snapshot's."""

    connection: socket.socket
    monitor: Monitor
    memory: int

    def save(self, state: Path) -> int:
        if self.memory < 0:
            raise MachineError(
                "this machine was started from a snapshot itself, and cannot be the source of another",
                hint="stop it and start it again: then it boots; or take the one that it came from",
            )
        with store_errors(state, "cannot write"):
            file = os.open(state, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self.monitor.execute("stop")
            self.monitor.save(file)
        finally:
            os.close(file)
        return self.memory

    def resume(self) -> None:
        self.monitor.execute("cont")

    def last_words(self) -> str:
        """The last line of what it has complained of, once it has ended; nothing where it goes on."""
        try:
            self.process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
            return ""
        lines = self.complaints.read().decode(errors="replace").splitlines()
        return next(("".join(filter(str.isprintable, line)) for line in reversed(lines) if line.strip()), "")

    def end(self) -> None:
        """Kill it, and close all that is its own."""
        Guest.__exit__(self, None, None, None)
        self.connection.close()
        if self.memory >= 0:
            os.close(self.memory)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def identity(board: Board = MICROVM) -> str:
    """Which QEMU is installed. MissingProgramError where none is."""
    return program_identity(found_program(board.program), board.program, hint=board.hint)


def qemu_argv(
    spec: MachineSpec,
    *,
    accelerator: Accelerator,
    tsc_khz: int | None,
    channel_fd: int,
    monitor_fd: int | None = None,
    nic_fds: Sequence[Sequence[int]] = (),
    memory: Memory | None = None,
    restored: bool = False,
) -> list[str]:
    """The command line of QEMU for `spec`; the agent's channel is the connected socket `channel_fd` that it inherits,
    its monitor's `monitor_fd`, and for each network interface `nic_fds`: the socket of the guest's frames and that of
    those outside, or its tap. `restored`: it waits for the state of its devices.

    The console is its standard output. MachineError for an architecture that it does not run.
    """
    board = board_of(spec.architecture)
    return [
        board.program,
        *("-name", f"{spec.name.replace(',', ',,')},process=firekiln-vm"),
        *_machine(board, spec, memory),
        *("-accel", accelerator),
        *("-cpu", board.cpu(accelerator)),
        *("-smp", str(spec.vcpus)),
        *("-m", f"{spec.memory // MIB}M"),
        *BARE,
        *SANDBOX,
        *("-serial", "stdio"),
        *("-kernel", str(spec.kernel)),
        *("-initrd", str(spec.initramfs)),
        *("-append", kernel_command_line(spec, accelerator=accelerator, tsc_khz=tsc_khz)),
        *_channel(channel_fd),
        *(_monitor(monitor_fd) if monitor_fd is not None else ()),
        *(("-incoming", "defer") if restored else ()),
        *("-device", "virtio-rng-device"),
        *(_limit(spec.drive_limit) if spec.drive_limit else ()),
        *(word for drive in spec.drives for word in _drive(drive, limited=spec.drive_limit is not None)),
        *(word for share in spec.shares for word in _share(share)),
        *(word for number, nic in enumerate(spec.nics) for word in _nic(number, nic, nic_fds[number])),
    ]


def kernel_command_line(spec: MachineSpec, *, accelerator: Accelerator, tsc_khz: int | None) -> str:
    """The kernel's words. Under TCG most boots hang unless the kernel is told the frequency of its TSC.

    Never `nolapic_timer`, though it saves the tenth of a second that the timer's calibration takes: the machine's ACPI
    is of the reduced kind, with which Linux leaves the PIT alone, and a guest without either has no timer at all.
    """
    board = board_of(spec.architecture)
    words = [f"console={board.console}", "quiet", *board.restart, *_WORDS]
    if accelerator == "tcg" and board is MICROVM:
        # With one processor Linux rewrites every lock prefix in its code, which here takes it 90 ms and gains nothing.
        words += ["no_timer_check", "noreplace-smp"]
        if tsc_khz:
            words += [f"tsc_early_khz={tsc_khz}", "tsc=reliable"]
    return " ".join([*words, *spec.command_line])


def _machine(board: Board, spec: MachineSpec, memory: Memory | None) -> Sequence[str]:
    """The machine, and where its memory is."""
    if memory is None:
        return board.words
    flag, words, *rest = board.words
    path = memory.path.replace(",", ",,")
    backend = f"memory-backend-file,id=memory,size={_size(spec)},mem-path={path}"
    return (
        *(flag, f"{words},memory-backend=memory", *rest),
        *("-object", f"{backend},share={'on' if memory.shared else 'off'}"),
    )


def _size(spec: MachineSpec) -> int:
    """Bytes of the guest's memory."""
    return spec.memory // MIB * MIB


def _monitor(fd: int) -> Sequence[str]:
    return (*("-chardev", f"socket,id=monitor,fd={fd}"), *("-mon", "chardev=monitor,mode=control"))


def _channel(fd: int) -> Sequence[str]:
    return (
        *("-chardev", f"socket,id=agent,fd={fd}"),
        *("-device", "virtio-serial-device,max_ports=2"),
        *("-device", f"virtserialport,chardev=agent,name={SerialPort().name}"),
    )


def _limit(limit: DriveLimit) -> Sequence[str]:
    """A group in which what all drives move is counted together (docs/throttle.txt of QEMU)."""
    limits = {
        "bps-read": limit.read_bps,
        "bps-write": limit.write_bps,
        "iops-read": limit.read_iops,
        "iops-write": limit.write_iops,
    }
    given = {name: value for name, value in limits.items() if value}
    return ("-object", json.dumps({"qom-type": "throttle-group", "id": _LIMIT, "limits": given}))


def _drive(drive: BlockDevice, *, limited: bool) -> Sequence[str]:
    # As JSON, because in QEMU's own syntax a comma in a file name ends it.
    node: dict[str, Json] = {
        "driver": "raw",
        "read-only": drive.readonly,
        "discard": "ignore" if drive.readonly else "unmap",
        "file": {"driver": "file", "filename": str(drive.path)},
    }
    if limited:
        node = {"driver": "throttle", "throttle-group": _LIMIT, "read-only": drive.readonly, "file": node}
    return (
        *("-blockdev", json.dumps({"node-name": drive.serial, **node})),
        *("-device", f"virtio-blk-device,drive={drive.serial},serial={drive.serial},{_ERRORS}"),
    )


def _share(share: SharedFolder) -> Sequence[str]:
    # Owners and modes are the host's own, as in a container. Who isn't root there can't give files away: they stay his.
    model = "passthrough" if os.geteuid() == 0 else "none"
    path = str(share.path).replace(",", ",,")
    options = f"local,id={share.tag},path={path},security_model={model},multidevs=remap"
    return (
        *("-fsdev", options + (",readonly=on" if share.readonly else "")),
        *("-device", f"virtio-9p-device,fsdev={share.tag},mount_tag={share.tag}"),
    )


def _nic(number: int, nic: Nic, fds: Sequence[int]) -> Sequence[str]:
    device = ("-device", f"virtio-net-device,netdev=net{number},mac={nic.mac}")
    if nic.tap:
        (tap,) = fds
        return ("-netdev", f"tap,id=net{number},fd={tap}", *device)
    # The guest's frames go out at one socket, and come in at another for the address translation, or not at all:
    # between them is the carrier, which judges them. A hub joins the other socket with the user network.
    guest, outside = fds
    forwards = (
        f",hostfwd={port.protocol}:{port.host_ip}:{port.host_port}-{nic.address.ip}:{port.guest_port}"
        for port in nic.ports
    )
    restrict = ",restrict=on" if nic.is_internal else ""
    options = f"user,id=nat{number},net={nic.address.network},host={nic.gateway},dns={nic.nameserver}{restrict}"
    return (
        *("-netdev", f"{options},dhcpstart={nic.address.ip},ipv6=off" + "".join(forwards)),
        *("-netdev", f"hubport,id=inner{number},hubid={number},netdev=nat{number}"),
        *("-netdev", f"socket,id=outside{number},fd={outside}"),
        *("-netdev", f"hubport,id=outer{number},hubid={number},netdev=outside{number}"),
        *("-netdev", f"socket,id=net{number},fd={guest}"),
        *device,
    )
