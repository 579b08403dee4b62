"""Networks of a store: which there are, and which machine has which address of them.

    <root>/networks/NAME/network.json          written once
    <root>/networks/NAME/machines/ID.json      a machine's place, from its creation to its removal
    <root>/networks/NAME/hosts                 made of these: what its machines' name servers answer from
    <root>/networks/NAME/ADDRESS               a socket of the machine that has it, while that runs
    <root>/networks/NAME/ADDRESS.up            a machine that runs on the kernel's bridge (see `kernel`)

All is changed under one lock. `bridge` is always there: made when it is first used, and never removed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, field
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network, NetmaskValueError
from pathlib import Path
from typing import Any, Final, Literal

from firekiln.errors import ConflictError, FirekilnError, UsageError
from firekiln.machine.names import random_id
from firekiln.machine.network.ports import mac_address
from firekiln.machine.network.subnets import free_address, free_subnet, taken_subnets
from firekiln.machine.vmm.spec import Nic, PublishedPort
from firekiln.store import Store
from firekiln.store.durable import replace_file, store_errors
from firekiln.store.locks import Locks, named
from firekiln.values import dataclass

Carrier = Literal["kernel", "user"]
BRIDGE: Final = "bridge"
_VALID: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
KEPT_BACK: Final = frozenset({"default", "none", "host"})
_RECORD: Final = "network.json"
_MACHINES: Final = "machines"
_HOSTS: Final = "hosts"
_SMALLEST: Final = 29
"""A prefix with fewer addresses has no room for the gateway, the name server and two machines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedNetwork:
    """One network. `carrier` says who carries its frames: the host's kernel (a bridge, root's), or our carriers."""

    name: str
    id: str
    folder: Path
    subnet: IPv4Network
    gateway: IPv4Address
    carrier: Carrier
    created_ns: int
    is_internal: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def nameserver(self) -> IPv4Address:
        """Who answers for names: on the kernel's bridge the gateway, else its highest address, which is nobody's."""
        return self.gateway if self.carrier == "kernel" else self.subnet[-2]

    @property
    def bridge(self) -> str:
        """The kernel's name of its bridge; "" where it has none."""
        return f"fk{self.id[:12]}" if self.carrier == "kernel" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A machine's place in a network: `names` are what others may call it, `tap` its interface on a bridge."""

    machine: str
    address: IPv4Address
    mac: str
    names: tuple[str, ...]
    ports: tuple[PublishedPort, ...] = ()
    tap: str = ""


class NetworkNotFoundError(FirekilnError):
    """No network bears that name or id."""

    def __init__(self, word: str) -> None:
        super().__init__(f"network {word} not found", hint="`firekiln network ls` lists what is there")


class Networks:
    """The networks of the store whose folder is `root`. Several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.folder = root / "networks"

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else changes networks meanwhile, or what the kernel has of them."""
        with Locks(self._root / "lock").held(named("networks")):
            yield

    def create(
        self,
        name: str,
        *,
        subnet: str | None = None,
        gateway: str | None = None,
        is_internal: bool = False,
        carrier: Carrier | None = None,
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> NamedNetwork:
        """A new network. ConflictError where the name or the subnet is taken, UsageError for what can be none."""
        if not _VALID.fullmatch(name) or name in KEPT_BACK:
            raise UsageError(f"{name}: not a name for a network", hint="letters, digits, '_', '.' and '-'; not default")
        with self.changing():
            if self._find(name) is not None or name == BRIDGE:
                raise ConflictError(f"network with name {name} already exists")
            return self._create(
                name,
                subnet=subnet,
                gateway=gateway,
                is_internal=is_internal,
                carrier=carrier,
                labels=labels or {},
                options=options or {},
            )

    def all(self) -> list[NamedNetwork]:
        """All of them, by name; of `bridge` only once it was used."""
        found = (self._read(path) for path in sorted(self.folder.glob(f"*/{_RECORD}")))
        return [network for network in found if network is not None]

    def get(self, word: str) -> NamedNetwork:
        """The network of that name, id or unambiguous beginning of an id. NetworkNotFoundError."""
        if word == BRIDGE:
            with self.changing():
                return self._find(BRIDGE) or self._create(BRIDGE)
        if (network := self._find(word)) is not None:
            return network
        beginning = [network for network in self.all() if word and network.id.startswith(word)]
        if len(beginning) != 1:
            raise NetworkNotFoundError(word)
        return beginning[0]

    def remove(self, network: NamedNetwork) -> None:
        """Forget it. ConflictError where a machine has a place in it."""
        if network.name == BRIDGE:
            raise ConflictError("bridge is a pre-defined network and cannot be removed")
        with self.changing():
            if (places := self.places(network)) != []:
                raise ConflictError(
                    f"error while removing network: network {network.name} id {network.id[:12]} has active endpoints",
                    hint=f"machines have it: {', '.join(place.machine[:12] for place in places)}",
                )
            shutil.rmtree(network.folder, ignore_errors=True)

    def places(self, network: NamedNetwork) -> list[Place]:
        """The machines that have a place in it, by address."""
        found = []
        for path in (network.folder / _MACHINES).glob("*.json"):
            with suppress(FileNotFoundError):
                found.append(_place(json.loads(path.read_bytes())))
        return sorted(found, key=lambda place: place.address)

    def join(
        self,
        network: NamedNetwork,
        machine_id: str,
        *,
        names: Iterable[str],
        address: str | None = None,
        mac: str | None = None,
        ports: tuple[PublishedPort, ...] = (),
        number: int = 0,
    ) -> Nic:
        """Give a machine a place in a network, as its interface `number`. ConflictError where `address` is taken,
        UsageError where it is none of the network's, or all are taken.
        """
        with self.changing():
            if self._find(network.name) is None:
                raise NetworkNotFoundError(network.name)
            taken = {place.address for place in self.places(network)} | {network.gateway, network.nameserver}
            chosen = free_address(network.subnet, taken, address, network.name)
            place = Place(
                machine=machine_id,
                address=chosen,
                mac=mac or mac_address(f"{machine_id}{network.name}"),
                names=tuple(dict.fromkeys(names)),
                ports=ports,
                tap=f"fk{machine_id[:10]}n{number}" if network.carrier == "kernel" else "",
            )
            self._write(network, place)
        return Nic(
            mac=place.mac,
            network=network.name,
            address=IPv4Interface((place.address, network.subnet.prefixlen)),
            gateway=network.gateway,
            nameserver=network.nameserver,
            ports=ports,
            folder=network.folder,
            tap=place.tap,
            bridge=network.bridge,
            is_internal=network.is_internal,
        )

    def leave(self, machine_id: str) -> None:
        """Take a machine's places from it. Idempotent."""
        if not self.folder.is_dir():
            return
        with self.changing():
            for path in self.folder.glob(f"*/{_MACHINES}/{machine_id}.json"):
                network = self._read(path.parent.parent / _RECORD)
                with suppress(FileNotFoundError):
                    place = _place(json.loads(path.read_bytes()))
                    for left in (str(place.address), f"{place.address}.up"):  # of a supervisor that was killed
                        (path.parent.parent / left).unlink(missing_ok=True)
                    path.unlink()
                if network is not None:
                    self._write_hosts(network)

    def rename(self, machine_id: str, before: str, after: str) -> None:
        """A machine has another name: so it is called in its networks."""
        if not self.folder.is_dir():
            return
        with self.changing():
            for network in self.all():
                for place in self.places(network):
                    if place.machine == machine_id:
                        names = tuple(after if name == before else name for name in place.names)
                        self._write(network, _with_names(place, names))

    def _create(self, name: str, **given: Any) -> NamedNetwork:
        subnet = _subnet(given["subnet"]) if given.get("subnet") else None
        known = [network.subnet for network in self.all()]
        if subnet is None:
            subnet = free_subnet([*known, *taken_subnets()])
        elif any(subnet.overlaps(other) for other in known):
            raise ConflictError(f"Pool overlaps with other one on this address space: {subnet}")
        carrier: Carrier = given.get("carrier") or ("kernel" if os.geteuid() == 0 else "user")
        network = NamedNetwork(
            name=name,
            id=random_id(),
            folder=self.folder / name,
            subnet=subnet,
            gateway=_gateway(given.get("gateway"), subnet),
            carrier=carrier,
            created_ns=time.time_ns(),
            is_internal=given.get("is_internal", False),
            labels=given.get("labels", {}),
            options=given.get("options", {}),
        )
        with store_errors(self.folder, "cannot make a network in"):
            # Its carriers give up root's rights, and reach each other's sockets in it: others don't get to the store.
            (network.folder / _MACHINES).mkdir(parents=True, exist_ok=True)
            network.folder.chmod(0o711)
            self._write_hosts(network)
            data = {
                **asdict(network),
                "folder": None,
                "subnet": str(network.subnet),
                "gateway": str(network.gateway),
                "labels": dict(network.labels),
                "options": dict(network.options),
            }
            replace_file(network.folder / _RECORD, json.dumps(data).encode(), temporary=network.folder)
        return network

    def _find(self, name: str) -> NamedNetwork | None:
        return self._read(self.folder / name / _RECORD) if _VALID.fullmatch(name) else None

    def _read(self, path: Path) -> NamedNetwork | None:
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        return NamedNetwork(
            **{
                **data,
                "folder": path.parent,
                "subnet": IPv4Network(data["subnet"]),
                "gateway": IPv4Address(data["gateway"]),
            }
        )

    def _write(self, network: NamedNetwork, place: Place) -> None:
        ports = [{**asdict(port), "host_ip": str(port.host_ip)} for port in place.ports]
        data = {**asdict(place), "address": str(place.address), "ports": ports}
        path = network.folder / _MACHINES / f"{place.machine}.json"
        with store_errors(path, "cannot write"):
            replace_file(path, json.dumps(data).encode(), temporary=network.folder)
        self._write_hosts(network)

    def _write_hosts(self, network: NamedNetwork) -> None:
        lines = []
        for place in self.places(network):
            names = [word for name in place.names if name for word in (name, f"{name}.{network.name}")]
            lines.append(" ".join([str(place.address), *names]) + "\n")
        with store_errors(network.folder, "cannot write in"):
            replace_file(network.folder / _HOSTS, "".join(lines).encode(), temporary=network.folder)
            (network.folder / _HOSTS).chmod(0o644)


def networks_of(store: Store) -> Networks:
    """The networks of an open store."""
    return Networks(store.root)


def _place(data: dict[str, Any]) -> Place:
    ports = tuple(PublishedPort(**{**port, "host_ip": IPv4Address(port["host_ip"])}) for port in data["ports"])
    names = tuple(data["names"])
    return Place(**{**data, "address": IPv4Address(data["address"]), "names": names, "ports": ports})


def _with_names(place: Place, names: tuple[str, ...]) -> Place:
    return Place(**{**asdict(place), "names": names, "ports": place.ports, "address": place.address})


def _subnet(text: str) -> IPv4Network:
    try:
        subnet = IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        hint = "write an IPv4 network such as 10.5.0.0/24; IPv6 is not carried" if ":" in text else None
        raise UsageError(f"invalid subnet {text}: {error}", hint=hint) from error
    if subnet.prefixlen > _SMALLEST:
        raise UsageError(f"invalid subnet {text}: too small", hint=f"/{_SMALLEST} is the smallest that is of use")
    return subnet


def _gateway(text: str | None, subnet: IPv4Network) -> IPv4Address:
    if text is None:
        return subnet[1]
    try:
        address = IPv4Address(text)
    except AddressValueError as error:
        raise UsageError(f"invalid gateway {text}: {error}") from error
    if address not in subnet or address in (subnet[0], subnet[-1]):
        raise UsageError(f"no configured subnet contains gateway {text}")
    return address
