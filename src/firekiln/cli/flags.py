"""Docker's flags of `run` and `create`, as options of click, and the values that they mean."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from firekiln.cli.refusals import refuse_flags
from firekiln.errors import UsageError

if TYPE_CHECKING:
    from firekiln.machine.options import RunOptions
    from firekiln.machine.process import Rlimit
    from firekiln.machine.vmm.spec import DriveLimit

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_SMALLEST_MEMORY = 64 << 20

_FLAGS: Sequence[tuple[tuple[str, ...], dict[str, Any]]] = (
    (("--name",), {"default": "", "help": "The machine's name."}),
    (("-i", "--interactive"), {"is_flag": True, "help": "Keep the standard input open."}),
    (("-t", "--tty"), {"is_flag": True, "help": "Give the process a terminal."}),
    (
        ("-p", "--publish"),
        {"multiple": True, "metavar": "[IP:]HOST:GUEST[/PROTO]", "help": "Publish a port (on 127.0.0.1)."},
    ),
    (("-P", "--publish-all"), {"is_flag": True, "help": "Publish what is exposed, on any free ports."}),
    (
        ("--network", "--net"),
        {"multiple": True, "metavar": "NETWORK", "help": "default, none, or a named network (network create)."},
    ),
    (
        ("--network-alias", "--net-alias"),
        {"multiple": True, "metavar": "NAME", "help": "What else its network calls it."},
    ),
    (("--ip",), {"metavar": "ADDRESS", "help": "Its address in the named network."}),
    (("--mac-address",), {"metavar": "ADDRESS", "help": "The hardware address of its interface."}),
    (("--expose",), {"multiple": True, "metavar": "PORT[/PROTO]", "help": "Expose a port."}),
    (
        ("-e", "--env"),
        {"multiple": True, "metavar": "NAME[=VALUE]", "help": "Set a variable, or pass the host's on."},
    ),
    (("--env-file",), {"multiple": True, "metavar": "FILE", "help": "Read variables from a file."}),
    (("-u", "--user"), {"metavar": "NAME|UID[:GROUP]", "help": "Run as this user."}),
    (("--group-add",), {"multiple": True, "metavar": "GROUP", "help": "One more group of the process."}),
    (("-w", "--workdir"), {"metavar": "DIR", "help": "The working directory."}),
    (("--entrypoint",), {"metavar": "PROGRAM", "help": "In place of the image's ENTRYPOINT."}),
    (("--rm", "auto_remove"), {"is_flag": True, "help": "Remove the machine when it has ended."}),
    (
        ("--restart",),
        {"default": "no", "metavar": "POLICY", "help": "no, on-failure[:TIMES], always or unless-stopped."},
    ),
    (("-m", "--memory"), {"metavar": "SIZE", "help": "Memory, such as 512m.  [default: 1g]"}),
    (("--cpus",), {"metavar": "NUMBER", "help": "Virtual processors.  [default: 1]"}),
    (("-h", "--hostname"), {"default": "", "help": "The machine's host name."}),
    (("--add-host",), {"multiple": True, "metavar": "NAME:ADDRESS", "help": "A line of /etc/hosts (or host-gateway)."}),
    (("--dns",), {"multiple": True, "metavar": "ADDRESS", "help": "A name server."}),
    (("--dns-search",), {"multiple": True, "metavar": "DOMAIN", "help": "A search domain."}),
    (("--dns-option", "--dns-opt"), {"multiple": True, "metavar": "WORD", "help": "An option of /etc/resolv.conf."}),
    (("-l", "--label"), {"multiple": True, "metavar": "KEY[=VALUE]", "help": "A label."}),
    (("--label-file",), {"multiple": True, "metavar": "FILE", "help": "Read labels from a file."}),
    (("--annotation",), {"multiple": True, "metavar": "KEY=VALUE", "help": "A remark that inspect shows."}),
    (
        ("--log-driver",),
        {"default": "", "metavar": "DRIVER", "help": "json-file, local or none.  [default: json-file]"},
    ),
    (("--log-opt",), {"multiple": True, "metavar": "NAME=VALUE", "help": "max-size (16m) or max-file (3)."}),
    (("--ulimit",), {"multiple": True, "metavar": "NAME=SOFT[:HARD]", "help": "A resource limit."}),
    (("--sysctl",), {"multiple": True, "metavar": "NAME=VALUE", "help": "A parameter of the machine's kernel."}),
    (
        ("--device-read-bps",),
        {"multiple": True, "metavar": "[DEVICE:]SIZE", "help": "Bytes a second that its drives read."},
    ),
    (
        ("--device-write-bps",),
        {"multiple": True, "metavar": "[DEVICE:]SIZE", "help": "Bytes a second that its drives write."},
    ),
    (
        ("--device-read-iops",),
        {"multiple": True, "metavar": "[DEVICE:]NUMBER", "help": "Reads a second of its drives."},
    ),
    (
        ("--device-write-iops",),
        {"multiple": True, "metavar": "[DEVICE:]NUMBER", "help": "Writes a second of its drives."},
    ),
    (("--shm-size",), {"metavar": "SIZE", "help": "The size of /dev/shm."}),
    (
        ("-v", "--volume"),
        {"multiple": True, "metavar": "[SOURCE:]PATH[:ro]", "help": "Mount a volume, or a folder of this host."},
    ),
    (("--mount",), {"multiple": True, "metavar": "KEY=VALUE,...", "help": "The same, in words (type, source, …)."}),
    (("--tmpfs",), {"multiple": True, "metavar": "PATH[:OPTIONS]", "help": "Mount memory."}),
    (("--read-only",), {"is_flag": True, "help": "Let the process find its root read-only."}),
    (("--health-cmd",), {"metavar": "COMMAND", "help": "A shell's line that says whether all is well."}),
    (("--health-interval",), {"metavar": "DURATION", "help": "Time between checks.  [default: 30s]"}),
    (("--health-timeout",), {"metavar": "DURATION", "help": "How long one may take.  [default: 30s]"}),
    (("--health-retries",), {"type": int, "metavar": "NUMBER", "help": "Failures in a row that count.  [default: 3]"}),
    (("--health-start-period",), {"metavar": "DURATION", "help": "How long failures do not count at the start."}),
    (("--health-start-interval",), {"metavar": "DURATION", "help": "Time between checks in the start period."}),
    (("--no-healthcheck",), {"is_flag": True, "help": "Let the image's HEALTHCHECK be."}),
    (("--stop-signal",), {"metavar": "SIGNAL", "help": "In place of the image's STOPSIGNAL."}),
    (
        ("--stop-timeout",),
        {"type": int, "default": 10, "metavar": "SECONDS", "help": "How long a stop waits before it kills."},
    ),
    (
        ("--init",),
        {
            "metavar": "WHICH",
            "type": click.Choice(["auto", "firekiln", "image"]),
            "default": "auto",
            "help": "Whose PID 1: firekiln's, or the image's with the command as its service (--init=image).",
        },
    ),
    (
        ("--vmm",),
        {
            "type": click.Choice(["auto", "qemu", "firecracker"]),
            "default": "auto",
            "help": "What runs the machine.  [default: auto]",
        },
    ),
    (("--kernel",), {"metavar": "FILE", "help": "Boot this kernel (ELF or bzImage) in place of the store's."}),
    (("--disk-size",), {"metavar": "SIZE", "help": "The writable disk's size; it takes what is used.  [default: 10g]"}),
    (("--cidfile",), {"metavar": "FILE", "help": "Write the machine's id to this file."}),
    (("--platform",), {"metavar": "OS/ARCH", "help": "The image's platform."}),
    (
        ("--pull",),
        {
            "type": click.Choice(["always", "missing", "never"]),
            "default": "missing",
            "help": "When to ask a registry for the image.  [default: missing]",
        },
    ),
    (("-q", "--quiet"), {"is_flag": True, "help": "Say nothing of how the image is got."}),
)


class ImageCommand(click.Command):
    """A command whose options stand before an image, and words for that image's process behind it.

    `--init` alone is Docker's: an init that reaps children. PID 1 always does, so that it asks for nothing more.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        taking = {name for option in self.params for name in option.opts if _takes_value(option)}
        position = 0
        while position < len(args) and args[position].startswith("-") and args[position] not in ("-", "--"):
            word = args[position]
            if word == "--init":
                args[position] = "--init=firekiln"
            short = not word.startswith("--")
            last = f"-{word[-1]}" if short else word
            own = not short or all(f"-{letter}" not in taking for letter in word[1:-1])  # else the rest is its value
            position += 2 if own and last in taking and word != "--init" else 1
        return super().parse_args(ctx, args)


def _takes_value(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and not parameter.is_flag


def machine_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Docker's flags; also those that a machine cannot obey, to say so: silence would lose what they ask for."""
    command = refuse_flags(command)
    for declaration, attributes in reversed(_FLAGS):
        command = click.option(*declaration, **attributes)(command)
    return command


def run_options(
    *,
    env: Sequence[str],
    env_file: Sequence[str],
    memory: str | None,
    cpus: str | None,
    disk_size: str | None,
    shm_size: str | None,
    device_read_bps: Sequence[str],
    device_write_bps: Sequence[str],
    device_read_iops: Sequence[str],
    device_write_iops: Sequence[str],
    workdir: str | None,
    kernel: str | None,
    vmm: Literal["auto", "qemu", "firecracker"],
    stop_timeout: int,
    interactive: bool,
    tty: bool,
    group_add: Sequence[str],
    add_host: Sequence[str],
    dns_option: Sequence[str],
    label: Sequence[str],
    label_file: Sequence[str],
    annotation: Sequence[str],
    log_opt: Sequence[str],
    ulimit: Sequence[str],
    sysctl: Sequence[str],
    restart: str,
    volume: Sequence[str],
    mount: Sequence[str],
    tmpfs: Sequence[str],
    platform: str | None,
    network: Sequence[str],
    network_alias: Sequence[str],
    ip: str | None,
    mac_address: str | None,
    **same: Any,
) -> RunOptions:
    """The command line's words as values. UsageError."""
    from firekiln.machine.guest.contract import Restart  # noqa: PLC0415 - imported when used
    from firekiln.machine.network.request import requests_of  # noqa: PLC0415 - ditto
    from firekiln.machine.options import RunOptions  # noqa: PLC0415 - ditto
    from firekiln.machine.process import Terminal  # noqa: PLC0415 - ditto
    from firekiln.machine.supervision.dialogue import terminal_size  # noqa: PLC0415 - ditto
    from firekiln.machine.vmm.spec import DEFAULT_DISK, DEFAULT_MEMORY  # noqa: PLC0415 - ditto
    from firekiln.machine.volumes.mountspec import parse_mount, parse_tmpfs, parse_volume  # noqa: PLC0415 - ditto
    from firekiln.oci.platform import Platform  # noqa: PLC0415 - ditto

    size = parse_size(memory, "--memory") if memory else DEFAULT_MEMORY
    if size < _SMALLEST_MEMORY:
        raise UsageError(f"--memory {memory} is too little to boot", hint="64m is the least")
    rows, columns = terminal_size(0) if tty else (0, 0)
    health = {name: same.pop(f"health_{name}") for name in _HEALTH}
    return RunOptions(
        env=(*(line for path in env_file for line in read_env_file(Path(path))), *map(from_host, env)),
        memory=size,
        vcpus=parse_cpus(cpus) if cpus else 1,
        disk_size=parse_size(disk_size, "--disk-size") if disk_size else DEFAULT_DISK,
        shm_size=parse_size(shm_size, "--shm-size") if shm_size else 0,
        drive_limit=parse_drive_limit(
            read_bps=device_read_bps,
            write_bps=device_write_bps,
            read_iops=device_read_iops,
            write_iops=device_write_iops,
        ),
        working_dir=workdir,
        kernel=Path(kernel) if kernel else None,
        vmm=vmm,
        stop_timeout=float(stop_timeout),
        stdin=interactive,
        tty=Terminal(rows=rows, columns=columns) if tty else None,
        groups=tuple(group_add),
        hosts=tuple(map(parse_host, add_host)),
        dns_options=tuple(dns_option),
        labels=parse_labels(label, label_file),
        annotations=parse_pairs(annotation, "annotation"),
        log_options=parse_pairs(log_opt, "log-opt"),
        rlimits=tuple(map(parse_ulimit, ulimit)),
        sysctls=dict(map(_parse_sysctl, sysctl)),
        mounts=(*map(parse_volume, volume), *map(parse_mount, mount), *map(parse_tmpfs, tmpfs)),
        restart=Restart.parse(restart),
        health=parse_health(**health),
        platform=Platform.parse(platform) if platform else None,
        networks=requests_of(network, aliases=network_alias, address=ip, mac=mac_address),
        **same,
    )


_HEALTH = "cmd interval timeout retries start_period start_interval".split()


def parse_health(*, cmd: str | None, retries: int | None, **durations: str | None) -> dict[str, Any]:
    """The fields of a Healthcheck that the flags replace. UsageError."""
    made: dict[str, Any] = {}
    if cmd is not None:
        made["test"] = ("CMD-SHELL", cmd)
    if retries is not None:
        if retries < 0:
            raise UsageError("--health-retries cannot be negative")
        made["retries"] = retries
    for name, text in durations.items():
        if text is not None:
            made[name] = _duration(text, f"--health-{name.replace('_', '-')}")
    return made


def _duration(text: str, option: str) -> int:
    from firekiln.dockerfile.durations import parse_duration  # noqa: PLC0415 - imported when used

    try:
        value = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}", hint="write it like 30s or 1m30s") from error
    if value < 0:
        raise UsageError(f"{option} cannot be negative")
    return value


def parse_host(text: str) -> tuple[str, str]:
    """`NAME:ADDRESS` or `NAME=ADDRESS` of --add-host, as an address and a name. UsageError."""
    from ipaddress import ip_address  # noqa: PLC0415 - imported when used

    name, sign, address = text.partition("=") if "=" in text else text.partition(":")
    address = address.removeprefix("[").removesuffix("]") if address.startswith("[") else address
    if not name or not sign:
        raise UsageError(f"bad format for add-host: {text!r}", hint="write NAME:ADDRESS")
    if address != "host-gateway":
        try:
            ip_address(address)
        except ValueError as error:
            raise UsageError(f"invalid IP address in add-host: {address!r}") from error
    return address, name


def parse_labels(words: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """--label-file and --label. UsageError."""
    lines = [line for path in files for line in read_lines(Path(path))]
    made = {}
    for word in (*lines, *words):
        key, _, value = word.partition("=")
        if not key:
            raise UsageError(f"invalid label: {word!r}", hint="write KEY=VALUE")
        made[key] = value
    return made


def parse_pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """`NAME=VALUE`, all of one option. UsageError."""
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise UsageError(f"invalid argument '{word}' for --{option}", hint="write NAME=VALUE")
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}


def parse_ulimit(text: str) -> Rlimit:
    """`nofile=1024:2048`. UsageError with Docker's words."""
    from firekiln.machine.process import Rlimit  # noqa: PLC0415 - imported when used
    from firekiln.sandbox.limits import Ulimit  # noqa: PLC0415 - ditto

    try:
        limit = Ulimit.parse(text)
    except ValueError as error:
        raise UsageError(f"--ulimit {text}: {error}") from error
    soft, hard = (None if value == -1 else value for value in (limit.soft, limit.hard))
    return Rlimit(name=limit.name, soft=soft, hard=hard)


def _parse_sysctl(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[a-zA-Z0-9_.*/-]+", name) or ".." in name:
        raise UsageError(f"invalid sysctl: {text!r}", hint="write NAME=VALUE, such as net.core.somaxconn=1024")
    return name, value


def parse_size(text: str, option: str) -> int:
    """`512m`, `1.5G`, `1073741824` in bytes. UsageError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{option} {text}: not a size", hint="write it like 512m or 2g")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def parse_drive_limit(**given: Sequence[str]) -> DriveLimit | None:
    """What `--device-read-bps` and its like say, by the names of DriveLimit; None: nothing. UsageError.

    Docker names a disk of the host. A machine's drives are files, wherever they lie: all are limited together, and of
    several words the last holds.
    """
    limits = {name: _rate(words[-1], f"--device-{name.replace('_', '-')}") for name, words in given.items() if words}
    if not limits:
        return None
    from firekiln.machine.vmm.spec import DriveLimit  # noqa: PLC0415 - imported when used

    return DriveLimit(**limits)


def _rate(text: str, option: str) -> int:
    device, colon, amount = text.rpartition(":")
    if colon and not device.startswith("/dev/"):
        raise UsageError(
            f"{option} {text}: bad format for device path", hint="write 1mb, or /dev/sda:1mb as for Docker"
        )
    rate = parse_size(amount, option) if option.endswith("bps") else int(amount) if amount.isdecimal() else 0
    if rate < 1:
        raise UsageError(f"{option} {text}: a positive number is needed")
    return rate


def parse_cpus(text: str) -> int:
    """A number of processors: a machine has whole ones. UsageError."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 1 <= number <= 255 or number != int(number):
        raise UsageError(f"--cpus {text}: a machine has a whole number of processors, from 1 to 255")
    return int(number)


def from_host(word: str) -> str:
    """`NAME=value` as it is; `NAME` with the host's value, where the host has one."""
    name, equals, _ = word.partition("=")
    if not name:
        raise UsageError(f"invalid environment variable: {word}")
    return word if equals or name not in os.environ else f"{name}={os.environ[name]}"


def read_env_file(path: Path) -> list[str]:
    """A file of `NAME=value` lines, as Docker reads it: no quotes, `#` lines and empty ones skipped. UsageError."""
    words = read_lines(path)
    for word in words:
        name = word.partition("=")[0]
        if not name or any(char.isspace() for char in name):
            raise UsageError(f"poorly formatted environment: variable '{name}' contains whitespaces ({path})")
    return [known for word in words if "=" in (known := from_host(word))]


def read_lines(path: Path) -> list[str]:
    """A file's lines that say something. UsageError."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"open {path}: {(error.strerror or '').lower()}") from error
    lines = (line.lstrip() for line in text.removeprefix("\ufeff").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
