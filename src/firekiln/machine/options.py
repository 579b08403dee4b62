"""What `run` and `create` say beside the image, and the image's config with it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from firekiln.errors import UsageError
from firekiln.machine.guest.contract import Interface, Mount, Network, Restart, TmpfsMount
from firekiln.machine.network.request import NetworkRequest
from firekiln.machine.process import DEFAULT_STOP_TIMEOUT_MS, Overrides, Process, Rlimit, Terminal
from firekiln.machine.vmm.spec import DEFAULT_DISK, DEFAULT_MEMORY, DriveLimit, Nic, VmmName
from firekiln.oci.config import Healthcheck, ImageConfig
from firekiln.oci.platform import Platform
from firekiln.values import dataclass

if TYPE_CHECKING:
    from firekiln.machine.services import InitChoice
    from firekiln.machine.volumes.mountspec import MountSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What `firekiln run` says. None, "" or nothing leaves the image's word, or the default.

    `env` holds `NAME=value`, or `NAME` alone, which removes the image's. `memory`, `disk_size` and `shm_size` (of
    /dev/shm) are in bytes, `stop_timeout` in seconds (negative: wait for ever). `publish` is as with Docker's `-p`;
    `publish_all` publishes what is exposed, `expose` being more of that. `stdin` gives the process a standard input,
    which with `stdin_once` ends when that of its first client does. `health` are the fields of a Healthcheck that
    replace the image's. `hosts` are pairs of an address, perhaps `host-gateway`, and a name. `init` says whose init
    is PID 1 (see `services.own_init`).
    """

    image: str
    args: tuple[str, ...] = ()
    name: str = ""
    platform: Platform | None = None
    publish: tuple[str, ...] = ()
    publish_all: bool = False
    expose: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str | None = None
    groups: tuple[str, ...] = ()
    working_dir: str | None = None
    entrypoint: str | None = None
    hostname: str = ""
    hosts: tuple[tuple[str, str], ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    rlimits: tuple[Rlimit, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    stdin: bool = False
    stdin_once: bool = False
    tty: Terminal | None = None
    read_only: bool = False
    mounts: tuple[MountSpec, ...] = ()
    init: InitChoice = "auto"
    restart: Restart = field(default_factory=Restart)
    health: Mapping[str, Any] = field(default_factory=dict)
    no_healthcheck: bool = False
    stop_signal: str | None = None
    stop_timeout: float = DEFAULT_STOP_TIMEOUT_MS / 1000
    auto_remove: bool = False
    memory: int = DEFAULT_MEMORY
    vcpus: int = 1
    disk_size: int = DEFAULT_DISK
    shm_size: int = 0
    drive_limit: DriveLimit | None = None
    log_driver: str = ""
    log_options: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    kernel: Path | None = None
    vmm: Literal["auto"] | VmmName = "auto"
    networks: tuple[NetworkRequest, ...] = (NetworkRequest(name="default"),)


def effective_config(image: ImageConfig, options: RunOptions) -> ImageConfig:
    """The image's config with the words of the command line that are not the process's own. UsageError."""
    if options.auto_remove and options.restart.policy != "no":
        raise UsageError("conflicting options: cannot specify both --restart and --rm")
    if options.no_healthcheck and options.health:
        raise UsageError("--no-healthcheck conflicts with --health-* options")
    check = image.healthcheck
    if options.no_healthcheck:
        check = Healthcheck(test=("NONE",))
    elif options.health:
        check = replace(check or Healthcheck(), **options.health)
    return replace(
        image,
        labels={**image.labels, **options.labels},
        exposed_ports=tuple(sorted({*image.exposed_ports, *map(_exposed, options.expose)})),
        stop_signal=options.stop_signal or image.stop_signal,
        healthcheck=check,
    )


def overrides(options: RunOptions) -> Overrides:
    """The words that are the process's own."""
    return Overrides(
        args=options.args,
        entrypoint=options.entrypoint,
        env=options.env,
        user=options.user,
        working_dir=options.working_dir,
        stop_signal=options.stop_signal,
        stop_timeout_ms=max(0, round(options.stop_timeout * 1000)),
        stdin=options.stdin,
        tty=options.tty,
        groups=options.groups,
        rlimits=options.rlimits,
    )


def mounts(options: RunOptions) -> tuple[Mount, ...]:
    """What the options mount besides volumes."""
    if not options.shm_size:
        return ()
    return (TmpfsMount(target="/dev/shm", size=options.shm_size, options=("nosuid", "nodev", "noexec")),)  # noqa: S108 - the guest's


def guest_network(nics: Sequence[Nic], options: RunOptions) -> Network:
    """The network as the guest is told it, names and servers included; the way out is by the first interface."""
    if not nics:
        return Network()
    first = nics[0]
    return Network(
        interfaces=tuple(
            Interface(
                name=f"eth{number}",
                address=nic.address,
                gateway=nic.gateway if nic is first and not nic.is_internal else None,
            )
            for number, nic in enumerate(nics)
        ),
        nameservers=options.dns or (str(first.nameserver),),
        search=options.dns_search,
        options=options.dns_options,
        hosts=tuple(
            (str(first.gateway) if address == "host-gateway" else address, name) for address, name in options.hosts
        ),
    )


def published(options: RunOptions, config: ImageConfig) -> tuple[str, ...]:
    """What is to be published, in the words of `-p`."""
    exposed = config.exposed_ports if options.publish_all else ()
    return (*options.publish, *(port for port in exposed if not _is_published(port, options.publish)))


def container_config(config: ImageConfig, options: RunOptions, process: Process, hostname: str) -> str:
    """Docker's inner config of the container: the image's, with what the command line said in its place."""
    entrypoint = config.entrypoint
    if options.entrypoint is not None:
        entrypoint = (options.entrypoint,) if options.entrypoint else None
    command = process.argv[len(entrypoint or ()) :]
    made = replace(
        config,
        user=process.user,
        env=process.env,
        entrypoint=entrypoint,
        cmd=command or None,
        working_dir=process.cwd if (options.working_dir or config.working_dir) else "",
    )
    flags = {
        "AttachStdin": options.stdin and options.stdin_once,
        "OpenStdin": options.stdin,
        "StdinOnce": options.stdin_once,
        "Tty": options.tty is not None,
    }
    return json.dumps({"Hostname": hostname, "Image": options.image, **flags, **made.to_json()})


def _exposed(text: str) -> str:
    """A port of --expose as the config has it. UsageError."""
    port, _, protocol = text.partition("/")
    first, _, last = port.partition("-")
    numbers = [int(word) for word in (first, last or first) if word.isascii() and word.isdecimal() and len(word) < 6]
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] <= 65535 or protocol not in ("", "tcp", "udp", "sctp"):
        raise UsageError(f"invalid range format for --expose: {text}", hint="write PORT[/tcp|udp], such as 80")
    return f"{port}/{protocol or 'tcp'}"


def _is_published(port: str, publish: tuple[str, ...]) -> bool:
    number, _, protocol = port.partition("/")
    return any(
        text.partition("/")[0].rpartition(":")[2] == number and (text.partition("/")[2] or "tcp") == (protocol or "tcp")
        for text in publish
    )
