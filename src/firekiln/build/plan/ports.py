"""EXPOSE's words: `[ip:][host:]port[-port][/protocol]`. Only port and protocol reach the image."""

from __future__ import annotations

import ipaddress
import re

PROTOCOLS = frozenset({"tcp", "udp", "sctp"})
_MAX_PORT = 2**16 - 1
_MODIFIED = re.compile(r"\$\{(?:\w+|[^\w}])[^}]")


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


def forgotten_prefix(word: str, escape: str = "\\") -> int:
    """How many characters of EXPOSE's word come to nothing: those before its last `${name:-…}` or like form.

    BuildKit's lexer has one buffer for a word and for the words within its braces: `EXPOSE 1${P:-81}` with P=80
    exposes 80. Within double quotes, what stands before the quote is lost.
    """
    lost, position, quote = 0, 0, -1
    while position < len(word):
        character = word[position]
        if character == escape:
            position += 2
        elif character == "'" and quote < 0:
            position = word.find("'", position + 1) + 1 or len(word)
        elif _MODIFIED.match(word, position):
            lost = position if quote < 0 else quote
            position = _closing_brace(word, position)
        else:
            if character == '"':
                quote = position if quote < 0 else -1
            position += 1
    return lost


def _closing_brace(word: str, start: int) -> int:
    depth = 0
    for position in range(start, len(word)):
        if word.startswith("${", position):
            depth += 1
        elif word[position] == "}":
            depth -= 1
            if not depth:
                return position + 1
    return len(word)


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
    match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text, re.ASCII)
    if match is None:
        raise ValueError(reason)
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first or last > _MAX_PORT:
        raise ValueError(reason)
    return first, last
