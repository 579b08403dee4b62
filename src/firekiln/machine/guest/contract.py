"""The machine document: everything that PID 1 in the guest is told, as `/firekiln/machine.json` of the initramfs.

The document is versioned, and whoever reads it ignores fields that it does not know. Words are passed as argv and as
`NAME=value`, never through a shell. A string that is not UTF-8 (a file name of the image, an argument of the command
line) is carried as Python holds it, with lone surrogates U+DC80…U+DCFF, which the guest turns back into the bytes.

`guest/PROTOCOL.md` describes each field for readers of the C sources.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from ipaddress import IPv4Address, IPv4Interface
from typing import Literal, TypeAlias, cast, get_args

from firekiln.errors import MachineError, UsageError
from firekiln.machine.guest.channel import Channel, SerialPort
from firekiln.machine.process import Process
from firekiln.oci.config import Healthcheck, Json
from firekiln.values import dataclass

VERSION = 1
DOCUMENT_LIMIT = 1 << 20
"""Bytes that the guest reads at most."""
_SERIAL_LIMIT = 20  # VIRTIO_BLK_ID_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A block device of the guest: by its virtio serial (at most 20 characters), or by its place among them from 0.

    Exactly one of both is given. Firecracker offers no choice of serial, so that drives are counted there.
    """

    serial: str | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        assert (self.serial is None) != (self.index is None)
        assert self.serial is None or 0 < len(self.serial.encode()) <= _SERIAL_LIMIT

    def to_json(self) -> dict[str, Json]:
        return {"index": self.index} if self.serial is None else {"serial": self.serial}


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The root file system: EROFS layers, lowest first, under one writable ext4 drive.

    Without `scratch` changes live in memory and die with the machine. The scratch drive holds `upper` and `work`;
    the guest makes them on an empty file system. `read_only`: the process finds it read-only.
    """

    layers: tuple[Drive, ...]
    scratch: Drive | None = None
    read_only: bool = False

    def to_json(self) -> dict[str, Json]:
        scratch = self.scratch.to_json() if self.scratch else None
        layers: list[Json] = [drive.to_json() for drive in self.layers]
        return {"layers": layers, "scratch": scratch, "read_only": self.read_only}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatRoot:
    """The root file system is the one that the document lies in (an exported image)."""

    def to_json(self) -> dict[str, Json]:
        return {"flat": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One network interface, configured by the guest's PID 1; `name` is the kernel's (`eth0`, with net.ifnames=0)."""

    address: IPv4Interface
    gateway: IPv4Address | None = None
    name: str = "eth0"
    mtu: int | None = None

    def to_json(self) -> dict[str, Json]:
        return {
            "name": self.name,
            "address": str(self.address.ip),
            "netmask": str(self.address.netmask),
            "gateway": str(self.gateway) if self.gateway else None,
            "mtu": self.mtu,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Interfaces beside loopback, and what /etc/resolv.conf and /etc/hosts say.

    `nameservers` None leaves the image's resolv.conf as it is. `hosts` are further pairs of an address and a name
    (--add-host); the machine's own name is added by the guest.
    """

    interfaces: tuple[Interface, ...] = ()
    nameservers: tuple[str, ...] | None = None
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Json]:
        return {
            "interfaces": [interface.to_json() for interface in self.interfaces],
            "nameservers": None if self.nameservers is None else list(self.nameservers),
            "search": list(self.search),
            "options": list(self.options),
            "hosts": [{"address": address, "name": name} for address, name in self.hosts],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveMount:
    """A drive's file system, or the folder `subpath` of it, at `target`: an absolute path of the guest."""

    target: str
    drive: Drive
    fstype: str = "ext4"
    read_only: bool = False
    subpath: str | None = None

    def to_json(self) -> dict[str, Json]:
        return {
            "type": "drive",
            "target": self.target,
            "drive": self.drive.to_json(),
            "fstype": self.fstype,
            "read_only": self.read_only,
            "subpath": self.subpath,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TmpfsMount:
    """Memory at `target`. `size` is in bytes, 0 the kernel's default; `options` are words of mount(8) (`noexec`)."""

    target: str
    size: int = 0
    mode: int = 0o1777
    options: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        return {
            "type": "tmpfs",
            "target": self.target,
            "size": self.size,
            "mode": self.mode,
            "options": list(self.options),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMount:
    """A folder that the VMM shares under `tag`."""

    target: str
    type: Literal["virtiofs", "9p"]
    tag: str
    read_only: bool = False

    def to_json(self) -> dict[str, Json]:
        return {"type": self.type, "target": self.target, "tag": self.tag, "read_only": self.read_only}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMount:
    """A regular file at `target`, which the document itself carries."""

    target: str
    data: bytes
    mode: int = 0o644

    def to_json(self) -> dict[str, Json]:
        return {"type": "file", "target": self.target, "mode": self.mode, **_data(self.data)}


Mount: TypeAlias = DriveMount | TmpfsMount | SharedMount | FileMount
"""What is mounted before the process starts, in the order of the document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """A file that the guest writes before the process starts; with `link`, a symbolic link to that instead."""

    path: str
    data: bytes = b""
    mode: int = 0o644
    link: str | None = None

    def to_json(self) -> dict[str, Json]:
        if self.link is not None:
            return {"path": self.path, "link": self.link}
        return {"path": self.path, "mode": self.mode, **_data(self.data)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """An init of the image that becomes PID 1; `argv[0]` is its path.

    It is asked to power off by `stop_signal`, or by running `stop_argv`; with neither by SIGRTMIN+4.
    """

    argv: tuple[str, ...]
    stop_signal: int | None = None
    stop_argv: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        made: dict[str, Json] = {"argv": list(self.argv)}
        if self.stop_argv:
            made["stop"] = {"argv": list(self.stop_argv)}
        elif self.stop_signal is not None:
            made["stop"] = {"signal": self.stop_signal}
        return made


RestartName: TypeAlias = Literal["no", "on-failure", "always", "unless-stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """When the process is started again after its end; `retries` (0: without limit) is on-failure's alone."""

    policy: RestartName = "no"
    retries: int = 0

    @classmethod
    def parse(cls, text: str) -> Restart:
        """`no`, `on-failure`, `on-failure:3`, `always`, `unless-stopped`; Docker's errors."""
        name, colon, number = text.partition(":")
        if name not in get_args(RestartName) and name:
            raise UsageError(
                f"invalid restart policy: unknown policy '{name}'",
                hint="use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
            )
        if colon and name != "on-failure":
            raise UsageError("invalid restart policy: maximum retry count can only be used with 'on-failure'")
        if colon and not (number.isascii() and number.isdecimal() and len(number) <= 9):
            raise UsageError("invalid restart policy: maximum retry count must be an integer")
        return cls(policy=cast("RestartName", name or "no"), retries=int(number or 0))

    def to_json(self) -> dict[str, Json]:
        return {"policy": self.policy, "retries": self.retries}


_HEALTH_SECONDS = 30
_HEALTH_RETRIES = 3
_HEALTH_GRACE = 5.0
_MS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """A check that the guest runs as the process would, from `interval_ms` after the start on."""

    argv: tuple[str, ...]
    interval_ms: int = _HEALTH_SECONDS * 1000
    timeout_ms: int = _HEALTH_SECONDS * 1000
    start_period_ms: int = 0
    start_interval_ms: int = 5000
    retries: int = _HEALTH_RETRIES

    @classmethod
    def from_config(cls, check: Healthcheck | None, shell: Sequence[str] | None = None) -> HealthCheck | None:
        """Of an image's HEALTHCHECK, with Docker's defaults; None where there is none, or it is NONE. UsageError."""
        match check.test if check else ():
            case () | ("NONE",):
                return None
            case ("CMD-SHELL", *line):
                argv = (*(shell or ("/bin/sh", "-c")), *line)
            case ("CMD", *words):
                argv = tuple(words)
            case (kind, *_):
                raise UsageError(f"unknown type of health check: {kind}", hint="HEALTHCHECK knows CMD and NONE")
        assert check is not None

        def milliseconds(nanoseconds: int, default: int) -> int:
            return max(1, nanoseconds // _MS) if nanoseconds else default

        return cls(
            argv=argv,
            interval_ms=milliseconds(check.interval, _HEALTH_SECONDS * 1000),
            timeout_ms=milliseconds(check.timeout, _HEALTH_SECONDS * 1000),
            start_period_ms=check.start_period // _MS,
            start_interval_ms=milliseconds(check.start_interval, 5000),
            retries=check.retries or _HEALTH_RETRIES,
        )

    @property
    def limit(self) -> tuple[float, int]:
        """Seconds after one result within which the next must come, of a guest that lives; failures that count."""
        longest = max(self.interval_ms, self.start_interval_ms) + self.timeout_ms
        return longest / 1000 + _HEALTH_GRACE, self.retries

    def to_json(self) -> dict[str, Json]:
        return {
            "argv": list(self.argv),
            "interval_ms": self.interval_ms,
            "timeout_ms": self.timeout_ms,
            "start_period_ms": self.start_period_ms,
            "start_interval_ms": self.start_interval_ms,
            "retries": self.retries,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDocument:
    """The whole document.

    `time_ns` is the host's clock (CLOCK_REALTIME) when the document is made, 0 to leave the guest's clock alone; the
    host's Hello corrects it later. `handshake_ms` is how long the process waits for that Hello at most: without a
    host it starts all the same.
    """

    hostname: str
    root: Root | FlatRoot
    process: Process
    channel: Channel = field(default_factory=SerialPort)
    network: Network = field(default_factory=Network)
    mounts: tuple[Mount, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    restart: Restart = field(default_factory=Restart)
    health: HealthCheck | None = None
    files: tuple[WrittenFile, ...] = ()
    init: Init | None = None
    time_ns: int = 0
    handshake_ms: int = 100

    def to_json(self) -> dict[str, Json]:
        return {
            "version": VERSION,
            "hostname": self.hostname,
            "time_ns": self.time_ns,
            "handshake_ms": self.handshake_ms,
            "channel": self.channel.to_json(),
            "root": self.root.to_json(),
            "network": self.network.to_json(),
            "process": self.process.to_json(),
            "mounts": [mount.to_json() for mount in self.mounts],
            "sysctls": dict(self.sysctls),
            "restart": self.restart.to_json(),
            "health": self.health.to_json() if self.health else None,
            "files": [file.to_json() for file in self.files],
            "init": self.init.to_json() if self.init else None,
        }

    def encode(self) -> bytes:
        """The document's bytes, plain ASCII. MachineError where it is longer than the guest reads."""
        data = json.dumps(self.to_json(), separators=(",", ":"), ensure_ascii=True).encode("ascii")
        if len(data) > DOCUMENT_LIMIT:
            raise MachineError(
                f"the command line and environment of the machine are too long: {len(data)} bytes",
                hint=f"{DOCUMENT_LIMIT} bytes is the limit; pass large values as files",
            )
        return data


def _data(data: bytes) -> dict[str, Json]:
    """A file's bytes as the document carries them: as text where it can."""
    if b"\0" in data:
        return {"base64": base64.b64encode(data).decode("ascii")}
    return {"data": data.decode("utf-8", "surrogateescape")}
