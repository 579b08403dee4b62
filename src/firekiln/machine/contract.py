"""The machine document: everything that PID 1 in the guest is told, as `/firekiln/machine.json` of the initramfs.

The document is versioned, and whoever reads it ignores fields that it does not know. Words are passed as argv and as
`NAME=value`, never through a shell. A string that is not UTF-8 (a file name of the image, an argument of the command
line) is carried as Python holds it, with lone surrogates U+DC80…U+DCFF, which the guest turns back into the bytes.

`guest/PROTOCOL.md` describes each field for readers of the C sources.
"""

from __future__ import annotations

import json
import posixpath
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import TypeAlias

from firekiln.errors import MachineError, UsageError
from firekiln.oci.config import ImageConfig, Json

VERSION = 1
DOCUMENT_LIMIT = 1 << 20
"""Bytes that the guest reads at most."""
ARGUMENT_LIMIT = 128 * 1024
"""Bytes of one argument or variable, its NUL included: Linux's MAX_ARG_STRLEN."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_STOP_TIMEOUT_MS = 10_000
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
    the guest makes them on an empty file system.
    """

    layers: tuple[Drive, ...]
    scratch: Drive | None = None

    def to_json(self) -> dict[str, Json]:
        scratch = self.scratch.to_json() if self.scratch else None
        return {"layers": [drive.to_json() for drive in self.layers], "scratch": scratch}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatRoot:
    """The root file system is the one that the document lies in (an exported image)."""

    def to_json(self) -> dict[str, Json]:
        return {"flat": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialPort:
    """A virtio-serial port of that name (QEMU)."""

    name: str = "firekiln.agent"

    def to_json(self) -> dict[str, Json]:
        return {"type": "virtio-serial", "name": self.name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vsock:
    """The guest connects to this port of the host; Firecracker passes it on to the Unix socket `PATH_port`."""

    port: int = 1024

    def to_json(self) -> dict[str, Json]:
        return {"type": "vsock", "port": self.port}


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """No channel: the process has the console for its standard input and output, and nobody is told of its end."""

    def to_json(self) -> dict[str, Json]:
        return {"type": "console"}


Channel: TypeAlias = SerialPort | Vsock | Console


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
class Rlimit:
    """One resource limit by its name without RLIMIT_ (`nofile`); None is unlimited."""

    name: str
    soft: int | None
    hard: int | None

    def to_json(self) -> dict[str, Json]:
        return {"name": self.name, "soft": self.soft, "hard": self.hard}


NOFILE = Rlimit(name="nofile", soft=1_048_576, hard=1_048_576)
"""As containerd gives its containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What `run` says beside the image. None (or nothing) leaves the image's word; see `Process.from_image`.

    `entrypoint` "" removes the image's; `env` holds `NAME=value`, or `NAME` alone, which removes the variable.
    """

    args: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: tuple[str, ...] = ()
    user: str | None = None
    working_dir: str | None = None
    stop_signal: str | None = None
    stop_timeout_ms: int = DEFAULT_STOP_TIMEOUT_MS
    stdin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The process that a machine is there for.

    `env` is complete but for HOME, which the guest adds from the image's passwd where it is missing or empty. `user`
    is USER's word, resolved in the guest ("" is root). `cwd` is absolute. `stdin` opens a pipe from the host, else
    standard input is /dev/null. The stop signal and time-out serve where the guest itself must stop the process.
    """

    argv: tuple[str, ...]
    env: tuple[str, ...]
    user: str = ""
    cwd: str = "/"
    stop_signal: int = signal.SIGTERM
    stop_timeout_ms: int = DEFAULT_STOP_TIMEOUT_MS
    stdin: bool = False
    rlimits: tuple[Rlimit, ...] = (NOFILE,)

    @classmethod
    def from_image(cls, config: ImageConfig, overrides: Overrides, *, hostname: str) -> Process:
        """Compose as `docker run` does (dockerd's `merge` and `CreateDaemonEnvironment`).

        Arguments replace CMD; --entrypoint replaces ENTRYPOINT and drops the image's CMD. UsageError where no command
        is left, and for a word that no process can be given.
        """
        cwd = overrides.working_dir or config.working_dir or "/"
        if not cwd.startswith("/"):
            raise UsageError(
                f"the working directory '{cwd}' is invalid, it needs to be an absolute path",
                hint="give --workdir a path that starts with /",
            )
        process = cls(
            argv=_argv(config, overrides),
            env=_environment(config.env, overrides.env, hostname),
            user=config.user if overrides.user is None else overrides.user,
            cwd="/" + posixpath.normpath(cwd).lstrip("/"),
            stop_signal=signal_number(overrides.stop_signal or config.stop_signal or "SIGTERM"),
            stop_timeout_ms=overrides.stop_timeout_ms,
            stdin=overrides.stdin,
        )
        for word in (*process.argv, *process.env, process.user, process.cwd):
            _check_word(word)
        return process

    def to_json(self) -> dict[str, Json]:
        return {
            "argv": list(self.argv),
            "env": list(self.env),
            "user": self.user,
            "cwd": self.cwd,
            "stop_signal": self.stop_signal,
            "stop_timeout_ms": self.stop_timeout_ms,
            "stdin": self.stdin,
            "rlimits": [limit.to_json() for limit in self.rlimits],
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


_SIGRTMIN = 34  # glibc's and musl's first, and what Docker's SIGRTMIN+n counts from
_SIGRTMAX = 64


def signal_number(text: str) -> int:
    """`SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-1` as a number; Docker's words. UsageError for another text."""
    word = text.strip().upper().removeprefix("SIG")
    if word.isascii() and word.isdecimal():
        number = int(word[:4])
    elif word.startswith("RTMIN"):
        number = _SIGRTMIN + _offset(word.removeprefix("RTMIN"), "+")
    elif word.startswith("RTMAX"):
        number = _SIGRTMAX - _offset(word.removeprefix("RTMAX"), "-")
    else:
        number = _SIGNALS.get(word, 0)
    if not 1 <= number <= _SIGRTMAX:
        raise UsageError(f"invalid signal: {text}", hint="name it like SIGTERM, SIGRTMIN+3 or 15")
    return number


_SIGNALS: Mapping[str, int] = {
    item.name.removeprefix("SIG"): item.value for item in signal.Signals if not item.name.startswith("SIGRT")
} | {"CLD": signal.SIGCHLD.value, "POLL": signal.SIGIO.value}


def _offset(text: str, sign: str) -> int:
    digits = text.removeprefix(sign)
    if not text:
        return 0
    valid = text.startswith(sign) and digits.isascii() and digits.isdecimal() and len(digits) <= 2
    return int(digits) if valid else 1000


def _argv(config: ImageConfig, overrides: Overrides) -> tuple[str, ...]:
    if overrides.entrypoint is not None:
        entrypoint = (overrides.entrypoint,) if overrides.entrypoint else ()
        argv = entrypoint + overrides.args
    else:
        argv = (config.entrypoint or ()) + (overrides.args or config.cmd or ())
    if not argv:
        raise UsageError(
            "no command specified",
            hint="the image has neither ENTRYPOINT nor CMD: say what to run after the image's name",
        )
    return argv


def _environment(image: Sequence[str], given: Sequence[str], hostname: str) -> tuple[str, ...]:
    """Docker's order: PATH, HOSTNAME, what the command line gives, then what only the image has."""
    made = {"PATH": f"PATH={DEFAULT_PATH}", "HOSTNAME": f"HOSTNAME={hostname}"}
    named = {word.partition("=")[0] for word in given}
    for word in (*given, *(word for word in image if word.partition("=")[0] not in named)):
        name, equals, _ = word.partition("=")
        if equals:
            made[name] = word
        else:
            made.pop(name, None)
    return tuple(made.values())


def _check_word(word: str) -> None:
    if "\0" in word:
        raise UsageError("an argument or variable holds a NUL byte, which no process can be given")
    if len(word.encode("utf-8", "surrogateescape")) >= ARGUMENT_LIMIT:
        raise UsageError(
            f"an argument or variable is too long: {word[:32]}…",
            hint=f"Linux takes at most {ARGUMENT_LIMIT - 1} bytes for one",
        )
