"""The kernel's rules for the networks of one store, as nftables' own text. Pure.

They are always written as a whole, for the machines that run at that moment, and take the place of those before in one
transaction: no half of them is ever in force, and what a killed process left is gone with the next change. nft(8) of
Netfilter reads the text. Its library would bring the same parser into our process, and pyroute2's part for nftables has
no expressions for address translation: both would be more of ours to get wrong.

Names, addresses and numbers are values of ours or checked ones; no word of a user's gets into the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from firekiln.machine.network.networks import NamedNetwork, Place
from firekiln.machine.vmm.spec import PublishedPort
from firekiln.values import dataclass

METADATA: Final = ("169.254.0.0/16",)
"""Link-local addresses: where clouds answer with a machine's credentials (169.254.169.254, and by IPv6
fd00:ec2::254, which no guest reaches, since IPv6 isn't carried)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A network of the kernel's, and the places of its machines that run."""

    network: NamedNetwork
    places: tuple[Place, ...]


def ruleset(table: str, joined: Sequence[Joined]) -> str:
    """What nft(8) is to carry out; without networks, the removal of all rules."""
    anew = "".join(f"table {family} {table}\ndelete table {family} {table}\n" for family in ("inet", "bridge"))
    if not joined:
        return anew
    return f"{anew}table inet {table} {{\n{_inet(joined)}}}\ntable bridge {table} {{\n{_bridge(joined)}}}\n"


def _inet(joined: Sequence[Joined]) -> str:
    bridges = _set(item.network.bridge for item in joined)
    gateways = _set(str(item.network.gateway) for item in joined)
    internal = [item.network.bridge for item in joined if item.network.is_internal]
    published = [_dnat(place, port) for item in joined for place in item.places for port in place.ports]
    own = [f"iifname {item.network.bridge} oifname {item.network.bridge} accept" for item in joined]
    return "".join(
        [
            _chain(
                "before", "type filter hook prerouting priority raw;", [f"iifname {bridges} ip daddr 127.0.0.0/8 drop"]
            ),
            _chain("prerouting", "type nat hook prerouting priority dstnat;", ["fib daddr type local jump published"]),
            _chain("output", "type nat hook output priority -100;", ["fib daddr type local jump published"]),
            _chain("published", "", published),
            _chain("postrouting", "type nat hook postrouting priority srcnat;", _masquerade(joined)),
            _chain("input", "type filter hook input priority filter;", [f"iifname {bridges} jump to_host"]),
            _chain(
                "to_host",
                "",
                [
                    "ct state established,related accept",
                    f"ip daddr {gateways} udp dport 53 accept",
                    f"ip daddr {gateways} icmp type echo-request accept",
                    "drop",
                ],
            ),
            _chain(
                "forward",
                "type filter hook forward priority filter;",
                [f"iifname {bridges} jump from_guests", f"oifname {bridges} jump to_guests"],
            ),
            _chain(
                "from_guests",
                "",
                [
                    "meta nfproto ipv6 drop",
                    *own,
                    f"ip daddr {_set(METADATA)} drop",
                    "ct state established,related accept",
                    *([f"iifname {_set(internal)} drop"] if internal else []),
                    f"oifname {bridges} ct status dnat accept",
                    f"oifname {bridges} drop",
                ],
            ),
            _chain("to_guests", "", ["ct state established,related accept", *own, "ct status dnat accept", "drop"]),
        ]
    )


def _masquerade(joined: Sequence[Joined]) -> list[str]:
    rules = []
    for item in joined:
        bridge, subnet = item.network.bridge, item.network.subnet
        # What comes from the host's loopback, or from a machine of the same network by a published port, must seem to
        # come from the gateway: its answers would take another way.
        rules += [
            f"oifname {bridge} ip saddr 127.0.0.0/8 masquerade",
            f"oifname {bridge} ip saddr {subnet} ct status dnat masquerade",
        ]
        if not item.network.is_internal:
            rules.append(f"oifname != {bridge} ip saddr {subnet} masquerade")
    return rules


def _dnat(place: Place, port: PublishedPort) -> str:
    where = "" if port.host_ip.is_unspecified else f"ip daddr {port.host_ip} "
    target = f"{place.address}:{port.guest_port}"
    return f"{where}meta nfproto ipv4 {port.protocol} dport {port.host_port} dnat ip to {target}"


def _bridge(joined: Sequence[Joined]) -> str:
    """A guest is who it was made: no other address of the hardware or of the network than its own."""
    rules = []
    for place in (place for item in joined for place in item.places):
        tap = f"iifname {place.tap}"
        rules += [
            f"{tap} ether saddr != {place.mac} drop",
            f"{tap} ether type ip ip saddr != {place.address} drop",
            f"{tap} ether type arp arp saddr ip != {{ {place.address}, 0.0.0.0 }} drop",
            f"{tap} ether type != {{ ip, arp }} drop",
        ]
    return _chain("guests", "type filter hook prerouting priority filter;", rules)


def _chain(name: str, hook: str, rules: Iterable[str]) -> str:
    lines = [hook] if hook else []
    return f"  chain {name} {{\n" + "".join(f"    {line}\n" for line in (*lines, *rules)) + "  }\n"


def _set(words: Iterable[str]) -> str:
    return "{ " + ", ".join(words) + " }"
