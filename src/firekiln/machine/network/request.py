"""What `--network` and its like ask for, and the interfaces that a new machine gets by them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from firekiln.errors import UsageError
from firekiln.machine.network.networks import BRIDGE, Networks
from firekiln.machine.network.ports import mac_address
from firekiln.machine.vmm.spec import Nic, PublishedPort, VmmName
from firekiln.values import dataclass

DEFAULT: Final = "default"
_OWN_NETWORK: Final = "a machine has a network of its own"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """One network that a machine is to have. `address` and `mac` are chosen for it where they are None."""

    name: str
    aliases: tuple[str, ...] = ()
    address: str | None = None
    mac: str | None = None

    @classmethod
    def parse(cls, text: str) -> NetworkRequest:
        """`NAME`, or Docker's `name=NAME,alias=WORD,ip=ADDRESS,mac-address=MAC`. UsageError for others."""
        if "=" not in text:
            return cls(name=text)
        fields: dict[str, list[str]] = {}
        for part in text.split(","):
            key, _, value = part.partition("=")
            fields.setdefault(key.strip().lower(), []).append(value.strip())
        unknown = fields.keys() - {"name", "alias", "ip", "mac-address"}
        if unknown or len(fields.get("name", ())) != 1:
            wrong = f"{min(unknown)} is not known" if unknown else "name=NETWORK is missing"
            raise UsageError(f"--network {text}: {wrong}", hint="name, alias, ip and mac-address are")
        return cls(
            name=fields["name"][0],
            aliases=tuple(fields.get("alias", ())),
            address=fields.get("ip", [None])[-1],
            mac=fields.get("mac-address", [None])[-1],
        )


def requests_of(
    networks: Sequence[str], *, aliases: Sequence[str] = (), address: str | None = None, mac: str | None = None
) -> tuple[NetworkRequest, ...]:
    """What the flags ask for: `--network-alias`, `--ip` and `--mac-address` are the first network's. UsageError."""
    made = [NetworkRequest.parse(text) for text in networks or (DEFAULT,)]
    first = made[0]
    made[0] = replace(first, aliases=(*first.aliases, *aliases), address=address or first.address, mac=mac or first.mac)
    for request in made:
        _check(request, alone=len(made) == 1)
    if len({request.name for request in made}) != len(made):
        raise UsageError("--network: one network is given twice")
    return tuple(made)


def _check(request: NetworkRequest, *, alone: bool) -> None:
    """UsageError where that is nothing for a machine."""
    if request.name == "host":
        raise UsageError(
            f"--network host: {_OWN_NETWORK}, not the host's", hint="publish its ports instead: -p 8080:80, or -P"
        )
    if request.name.startswith("container:"):
        raise UsageError(
            f"--network {request.name}: {_OWN_NETWORK}, and shares none",
            hint="put both on a named network, where they find each other by name: firekiln network create NAME",
        )
    if request.name in ("none", DEFAULT) and not alone:
        raise UsageError(f"conflicting options: {request.name} is no network to have beside others")
    if request.name in ("none", DEFAULT, BRIDGE):
        if request.aliases:
            raise UsageError("network-scoped alias is supported only for containers in user defined networks")
        if request.address:
            raise UsageError("user specified IP address is supported on user defined networks only")
    if request.mac is not None and not _is_mac(request.mac):
        raise UsageError(f"{request.mac} is not a valid mac address", hint="six bytes, the first of them even")
    for alias in request.aliases:
        if not alias or not all(char.isalnum() or char in "-_." for char in alias) or len(alias) > 63:
            raise UsageError(f"--network-alias {alias}: not a name", hint="letters, digits, '-', '_' and '.'")


def _is_mac(text: str) -> bool:
    words = text.replace("-", ":").split(":")
    digits = set("0123456789abcdefABCDEF")
    return (
        len(words) == 6
        and all(len(word) == 2 and digits.issuperset(word) for word in words)
        and not int(words[0], 16) & 1
    )


def interfaces(
    root: Path,
    requests: Sequence[NetworkRequest],
    machine_id: str,
    *,
    name: str,
    ports: tuple[PublishedPort, ...],
    vmm: VmmName,
) -> tuple[Nic, ...]:
    """Give a new machine its places in the networks of the store at `root`. Whoever fails later calls `leave`.

    Ports are published on the first. UsageError for what the VMM can't have, NetworkNotFoundError, ConflictError.
    """
    first = requests[0]
    if first.name == "none":
        if ports:
            raise UsageError("conflicting options: port publishing and --network none", hint="leave one of them")
        return ()
    if first.name == DEFAULT:
        if vmm == "qemu":
            return (Nic(mac=first.mac or mac_address(machine_id), ports=ports),)
        if os.geteuid() != 0:  # Firecracker says so itself where it matters
            return (Nic(mac=first.mac or mac_address(machine_id), ports=ports),) if ports else ()
        requests = (replace(first, name=BRIDGE),)
    networks = Networks(root)
    made = []
    for number, request in enumerate(requests):
        network = networks.get(request.name)
        if network.carrier == "user" and vmm == "firecracker":
            raise UsageError(
                f"network {network.name}: Firecracker has no user network, it takes frames from a tap interface",
                hint="run it by QEMU (--vmm qemu), or make the network as root",
            )
        if network.is_internal and ports and number == 0:
            raise UsageError(f"network {network.name} is internal: nothing is published on it", hint="leave -p")
        made.append(
            networks.join(
                network,
                machine_id,
                names=(name, *request.aliases, machine_id[:12]),
                address=request.address,
                mac=request.mac.replace("-", ":").lower() if request.mac else None,
                ports=ports if number == 0 else (),
                number=number,
            )
        )
    return tuple(made)
