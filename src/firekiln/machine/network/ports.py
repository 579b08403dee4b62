"""Published ports: Docker's `-p` read, and each found free on the host before anything boots."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import cast

from firekiln.errors import ConflictError, MachineError, UsageError
from firekiln.machine.vmm.spec import Protocol, PublishedPort

LOOPBACK = IPv4Address("127.0.0.1")
"""Where a port is published unless an address is given. Docker takes every address of the host; a guest that the
whole network reaches should be asked for (`-p 0.0.0.0:80:80`)."""

_PUBLISH = re.compile(
    r"(?:(?P<ip>[0-9]+\.[0-9.]+):)?(?:(?P<host>[0-9]+(?:-[0-9]+)?)?:)?(?P<guest>[0-9]+(?:-[0-9]+)?)(?:/(?P<protocol>\w+))?"
)
_LOWEST, _HIGHEST = 1, 65535
_SOCKET_TYPE = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """`guest_port` is to answer at one of `host_ports` of the host, any free one where that is None."""

    host_ip: IPv4Address
    host_ports: tuple[int, ...] | None
    guest_port: int
    protocol: Protocol


def parse_publish(text: str) -> tuple[PublishRequest, ...]:
    """`[[IP:][HOST]:]GUEST[/tcp|udp]`, HOST and GUEST perhaps ranges of one length. UsageError for another text.

    A range for one guest's port means any of them, as with Docker, and 0 any that is free.
    """
    found = _PUBLISH.fullmatch(text)
    if not found:
        hint = "write [IP:]HOST:GUEST[/tcp|udp], such as 8080:80"
        if "[" in text:
            hint = "QEMU's user network publishes on IPv4 addresses only"
        raise UsageError(f"invalid port to publish: {text}", hint=hint)
    guests = _ports(found["guest"], text)
    hosts = None if found["host"] in (None, "0") else _ports(found["host"], text)
    protocol = (found["protocol"] or "tcp").lower()
    if protocol not in _SOCKET_TYPE:
        raise UsageError(f"invalid port to publish: {text}: {protocol} is neither tcp nor udp")
    try:
        address = IPv4Address(found["ip"]) if found["ip"] else LOOPBACK
    except ValueError as error:
        raise UsageError(f"invalid port to publish: {text}: {error}") from error
    if hosts and len(guests) > 1 and len(hosts) != len(guests):
        raise UsageError(f"invalid port to publish: {text}: the ranges differ in length")
    return tuple(
        PublishRequest(
            host_ip=address,
            host_ports=hosts if hosts is None or len(guests) == 1 else (hosts[index],),
            guest_port=guest,
            protocol=cast("Protocol", protocol),
        )
        for index, guest in enumerate(guests)
    )


def allocate(requests: Iterable[PublishRequest]) -> tuple[PublishedPort, ...]:
    """Choose the host's port of each request. ConflictError names the first that is taken; nothing is kept open.

    Between this and the VMM's own binding another process may take the port; the VMM's failure is then reported alike.
    """
    taken: set[tuple[str, int, str]] = set()
    ports: list[PublishedPort] = []
    for request in requests:
        chosen = _choose(request, taken)
        taken.add((str(request.host_ip), chosen, request.protocol))
        ports.append(
            PublishedPort(
                host_ip=request.host_ip,
                host_port=chosen,
                guest_port=request.guest_port,
                protocol=request.protocol,
            )
        )
    return tuple(ports)


def check_free(ports: Iterable[PublishedPort]) -> None:
    """ConflictError names the first port that somebody else has taken since it was chosen."""
    for port in ports:
        request = PublishRequest(
            host_ip=port.host_ip, host_ports=(port.host_port,), guest_port=port.guest_port, protocol=port.protocol
        )
        _choose(request, set())


@contextmanager
def hold(port: PublishedPort) -> Iterator[None]:
    """Keep a port from others, where the kernel passes on what comes for it: who holds it has it, of two that race.

    ConflictError where somebody has it.
    """
    with socket.socket(socket.AF_INET, _SOCKET_TYPE[port.protocol]) as holder:
        if port.protocol == "tcp":
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((str(port.host_ip), port.host_port))
            if port.protocol == "tcp":
                holder.listen(1)
        except OSError as error:
            raise port_taken(port.host_ip, port.host_port) from error
        yield


def port_taken(host_ip: object, port: int | str) -> ConflictError:
    """Docker's words for a port that somebody else listens on."""
    return ConflictError(
        f"Bind for {host_ip}:{port} failed: port is already allocated",
        hint="stop what listens there (ss -ltnup), or publish another port",
    )


def mac_address(machine_id: str) -> str:
    """A locally administered address made of the machine's id, in QEMU's range 52:54:00."""
    import hashlib  # noqa: PLC0415 - brings libcrypto: 3 MB that a supervisor can do without

    tail = hashlib.sha256(machine_id.encode()).digest()[:3]
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in tail)


def _ports(text: str, whole: str) -> tuple[int, ...]:
    first, _, last = text.partition("-")
    low, high = int(first[:6]), int((last or first)[:6])
    if not _LOWEST <= low <= high <= _HIGHEST:
        raise UsageError(f"invalid port to publish: {whole}: {text} is no port from 1 to 65535, or range of them")
    return tuple(range(low, high + 1))


def _choose(request: PublishRequest, taken: set[tuple[str, int, str]]) -> int:
    candidates = (0,) if request.host_ports is None else request.host_ports
    for port in candidates:
        bound = None if (str(request.host_ip), port, request.protocol) in taken else _try_bind(request, port)
        if bound is not None:
            return bound
    first, last = candidates[0], candidates[-1]
    raise port_taken(request.host_ip, first if first == last else f"{first}-{last}")


def _try_bind(request: PublishRequest, port: int) -> int | None:
    """The port that binding gave, None where it is taken. MachineError where binding is impossible in another way."""
    with socket.socket(socket.AF_INET, _SOCKET_TYPE[request.protocol]) as trial:
        if request.protocol == "tcp":
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as QEMU does: TIME_WAIT is no obstacle
        try:
            trial.bind((str(request.host_ip), port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            reason = os.strerror(error.errno or 0).lower()
            raise MachineError(
                f"Bind for {request.host_ip}:{port} failed: {reason}",
                hint="ports below 1024 are root's, and the address must be one of this host's",
            ) from error
        return int(trial.getsockname()[1])
