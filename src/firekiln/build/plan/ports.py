"""EXPOSE's words: `[ip:][host:]port[-port][/protocol]`. Only port and protocol reach the image."""

from __future__ import annotations

import ipaddress
import re

PROTOCOLS = frozenset({"tcp", "udp", "sctp"})
_MAX_PORT = 2**16 - 1


def parse_ports(word: str) -> list[str]:
    """`8000-8002/udp` gives `8000/udp`, `8001/udp`, `8002/udp`; TCP where nothing is said. ValueError: no port."""
    address, host, container = _split(word)
    port, _, protocol = container.partition("/")
    if not port:
        raise ValueError(f"no port specified: {word}<empty>")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    _check_address(address)
    first, last = _range(port, f"invalid containerPort: {port}")
    if host:
        host_first, host_last = _range(host, f"invalid hostPort: {host}")
        if last - first not in (0, host_last - host_first):
            raise ValueError(f"invalid ranges specified for container and host Ports: {port} and {host}")
    return [f"{number}/{protocol}" for number in range(first, last + 1)]


def _split(word: str) -> tuple[str, str, str]:
    address, host, container = ["", "", *word.rsplit(":", 2)][-3:]
    return address, host, container


def _check_address(address: str) -> None:
    if not address:
        return
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError(f"invalid IP address: {address}") from None


def _range(text: str, reason: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII)
    if match is None:
        raise ValueError(reason)
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first or last > _MAX_PORT:
        raise ValueError(reason)
    return first, last
