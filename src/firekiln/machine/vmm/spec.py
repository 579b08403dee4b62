"""What a machine is made of, in no VMM's words. Each VMM has a pure function from this to its command line."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Literal

from firekiln.values import dataclass

Accelerator = Literal["kvm", "tcg"]
Protocol = Literal["tcp", "udp"]
VmmName = Literal["qemu", "firecracker"]

MIB = 1 << 20
GIB = 1 << 30
DEFAULT_MEMORY = GIB
DEFAULT_DISK = 10 * GIB
_ADDRESS = IPv4Interface("10.0.2.15/24")
_GATEWAY = IPv4Address("10.0.2.2")
_NAMESERVER = IPv4Address("10.0.2.3")
LAYER_DRIVES = 8
"""Read-only drives at most: QEMU's microvm has 24 virtio places, Firecracker about 19, and others want theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDevice:
    """A raw image file as a drive of the guest, which knows it by `serial` (1 to 20 ASCII characters)."""

    serial: str
    path: Path
    readonly: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveLimit:
    """How much all drives of a machine may read and write together: bytes and operations a second; 0: no limit."""

    read_bps: int = 0
    write_bps: int = 0
    read_iops: int = 0
    write_iops: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFolder:
    """A folder of the host that the guest mounts by `tag` (9p)."""

    tag: str
    path: Path
    readonly: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """The guest's `guest_port` answers at `host_ip:host_port` of the host."""

    host_ip: IPv4Address
    host_port: int
    guest_port: int
    protocol: Protocol = "tcp"

    def __str__(self) -> str:
        return f"{self.host_ip}:{self.host_port}->{self.guest_port}/{self.protocol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network interface of a machine, and its place in a network.

    Without a `tap` the guest is behind an address translation in the VMM's own process (QEMU's user network, slirp),
    which needs no root; its frames pass a carrier. With one they go to the host's kernel, by that interface, which
    belongs to `bridge`. `folder` is the network's, where its machines find each other (None: it has no others).
    """

    mac: str
    network: str = "default"
    address: IPv4Interface = _ADDRESS
    gateway: IPv4Address = _GATEWAY
    nameserver: IPv4Address = _NAMESERVER
    ports: tuple[PublishedPort, ...] = ()
    folder: Path | None = None
    tap: str = ""
    bridge: str = ""
    is_internal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """A machine before it runs. `memory` is in bytes.

    `command_line` holds the kernel's words that do not depend on the VMM. Every machine has a serial console and the
    agent's channel; what carries them is the VMM's business.
    """

    name: str
    architecture: str
    kernel: Path
    initramfs: Path
    drives: tuple[BlockDevice, ...]
    command_line: tuple[str, ...] = ()
    vcpus: int = 1
    memory: int = DEFAULT_MEMORY
    nics: tuple[Nic, ...] = ()
    shares: tuple[SharedFolder, ...] = ()
    drive_limit: DriveLimit | None = None

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        """What is published of it."""
        return tuple(port for nic in self.nics for port in nic.ports)
