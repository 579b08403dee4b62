"""Which subnets and addresses are free. Pure, but for a look at the routes of this host."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from firekiln.errors import ConflictError, UsageError

POOL: Final = IPv4Network("10.210.0.0/16")
"""Networks are made of this where none is asked for: far from Docker's, Podman's and what homes and offices have."""
_PREFIX: Final = 24
_ROUTES: Final = Path("/proc/net/route")


def free_subnet(taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first of the pool's that overlaps with none of these. ConflictError where there is none left."""
    others = [network for network in taken if network.prefixlen]
    for candidate in POOL.subnets(new_prefix=_PREFIX):
        if not any(candidate.overlaps(other) for other in others):
            return candidate
    raise ConflictError(
        "all predefined address pools have been fully subnetted",
        hint="remove networks (firekiln network prune), or name one: --subnet",
    )


def free_address(subnet: IPv4Network, taken: Collection[IPv4Address], wanted: str | None, network: str) -> IPv4Address:
    """`wanted`, or the first that is free. ConflictError where it is taken, UsageError where it is not in `subnet`."""
    if wanted is None:
        free = next((address for address in subnet.hosts() if address not in taken), None)
        if free is None:
            raise ConflictError(f"no available IPv4 addresses on network {network}")
        return free
    try:
        address = IPv4Address(wanted)
    except AddressValueError as error:
        raise UsageError(f"invalid IPv4 address: {wanted}") from error
    if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
        raise UsageError(f"no configured subnet of network {network} contains IP address {wanted}: it is {subnet}")
    if address in taken:
        raise ConflictError(f"Address already in use: {wanted}", hint=f"firekiln network inspect {network}")
    return address


def taken_subnets(routes: Path = _ROUTES) -> list[IPv4Network]:
    """What this host has ways to: a network of the same addresses would hide it from guests."""
    found = []
    for line in routes.read_text().splitlines()[1:] if routes.exists() else []:
        words = line.split()
        destination, mask = (IPv4Address(int(words[place], 16).to_bytes(4, "little")) for place in (1, 7))
        found.append(IPv4Network((destination, str(mask)), strict=False))
    return found
