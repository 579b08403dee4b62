"""Networks on a bridge of the host's kernel: root's. What the kernel has of them follows from which machines run.

A machine's tap lives as long as its VMM holds it; a bridge and the rules as long as a machine of the network runs. Each
start and each end of such a machine makes the kernel's state what it should be, so that what a killed supervisor left
goes with the next one, or with the next command (`sweep_kernel`). The requests are ioctls of netdevice(7) and bridges
(`linux/sockios.h`): few of them, where pyroute2 would take 0.2 s of each start, and 20 MB of each supervisor, to load.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final

from firekiln.errors import MachineError, MissingProgramError
from firekiln.machine.network.firewall import Joined, ruleset
from firekiln.machine.network.networks import NamedNetwork, Networks, Place
from firekiln.machine.network.ports import hold
from firekiln.machine.supervision.state import State
from firekiln.machine.vmm.spec import Nic

_TUN: Final = Path("/dev/net/tun")
_SETTINGS: Final = Path("/proc/sys/net")
_COMMENT: Final = "firekiln"
_PREFIX: Final = "fk"
"""How the name of each interface of ours begins, whatever store it is of."""

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
_SIOCBRADDBR, _SIOCBRDELBR, _SIOCBRADDIF = 0x89A0, 0x89A1, 0x89A2
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_UP, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x1, 0x2, 0x1000, 0x4000


@contextmanager
def joined(nic: Nic, *, tap_user: int | None = None) -> Iterator[int]:
    """Join the network's bridge by a tap; its descriptor, which the caller closes. Ports are kept from others then.

    With `tap_user` that user may open it by its name as well. ConflictError where a port is taken; MissingProgramError.
    """
    assert nic.folder is not None
    if os.geteuid() != 0:
        raise MachineError(
            f"network {nic.network} is a bridge of the host's kernel: it needs root",
            hint="run it as root, or make a network of your own carriers: firekiln network create -o carrier=user",
        )
    root = nic.folder.parent.parent
    up = nic.folder / f"{nic.address.ip}.up"
    with ExitStack() as undo:
        for port in nic.ports:
            undo.enter_context(hold(port))
        undo.callback(reconcile, root)
        undo.callback(up.unlink, missing_ok=True)
        up.touch()
        reconcile(root)
        with _kernel_errors(f"cannot join network {nic.network}"):
            tap = _open_tap(nic.tap, owner=tap_user)
            try:
                if tap_user is not None:
                    undo.callback(_drop_tap, nic.tap)
                _set_up(nic.tap)
                _request(_SIOCBRADDIF, nic.bridge, struct.pack("i", socket.if_nametoindex(nic.tap)))
            except BaseException:
                os.close(tap)
                raise
        yield tap


def reconcile(root: Path) -> None:
    """Make bridges and rules those of the machines that run now. MissingProgramError without nft(8)."""
    networks = Networks(root)
    with networks.changing():
        every = [item for network in networks.all() if (item := _joined(root, networks, network)) is not None]
        live = [item for item in every if item.places]
        with _kernel_errors("cannot make the bridge of a network"):
            for item in live:
                _make_bridge(item.network.bridge, item.network.gateway, item.network.subnet)
        _apply(ruleset(_table(root), live))
        for item in every:
            _drop_dead(item, networks.places(item.network))
        open_host_firewall(any(name.startswith(_PREFIX) for name in _present()))


def sweep_kernel(root: Path) -> None:
    """Take away what is left of machines whose supervisors were killed."""
    if os.geteuid() != 0:
        return
    networks = Networks(root)
    state = State(root / "machines")
    stale = [
        marker
        for network in networks.all()
        for place in (networks.places(network) if any(network.folder.glob("*.up")) else ())
        if (marker := network.folder / f"{place.address}.up").exists() and not state.is_alive(place.machine)
    ]
    if stale:
        for marker in stale:
            marker.unlink(missing_ok=True)
        reconcile(root)


def _joined(root: Path, networks: Networks, network: NamedNetwork) -> Joined | None:
    if network.carrier != "kernel":
        return None
    state = State(root / "machines")
    places = [
        place
        for place in (networks.places(network) if any(network.folder.glob("*.up")) else ())
        if (network.folder / f"{place.address}.up").exists() and state.is_alive(place.machine)
    ]
    return Joined(network=network, places=tuple(places))


def _table(root: Path) -> str:
    """The table's name: each store has its own."""
    return f"firekiln_{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]}"


def _apply(text: str) -> None:
    done = subprocess.run([_nft(), "-f", "-"], input=text, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise MachineError(f"nft refused the rules of the networks: {reason}", hint="firekiln doctor")


def _nft() -> str:
    program = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise MissingProgramError(
            "nft is not on this host: networks on a bridge of the kernel need it",
            hint="apt-get install nftables (Debian, Ubuntu), or firekiln network create -o carrier=user",
        )
    return program


def open_host_firewall(is_needed: bool) -> None:
    """Where another firewall drops what it doesn't know (Docker's, ufw's), have it let our bridges' frames pass.

    An `accept` of a table of ours can't undo a drop elsewhere. What must not pass our own rules drop all the same.
    """
    chains = {chain["name"]: chain for chain in _listed("table", "ip", "filter") if chain.get("kind") == "chain"}
    name = "DOCKER-USER" if "DOCKER-USER" in chains else "FORWARD"
    if name not in chains or (name == "FORWARD" and chains[name].get("policy") != "drop"):
        return
    rules = [rule for rule in _listed("chain", "ip", "filter", name) if rule.get("kind") == "rule"]
    ours = [rule["handle"] for rule in rules if rule.get("comment") == _COMMENT]
    if is_needed and not ours:
        words = (f'insert rule ip filter {name} {way} "{_PREFIX}*" accept comment "{_COMMENT}"\n' for way in _WAYS)
        _apply("".join(words))
    elif ours and not is_needed:
        _apply("".join(f"delete rule ip filter {name} handle {handle}\n" for handle in ours))


_WAYS: Final = ("iifname", "oifname")


def _listed(*words: str) -> list[dict[str, Any]]:
    """What nft lists, each with its `kind`; nothing where there is no such table."""
    done = subprocess.run([_nft(), "-j", "-a", "list", *words], text=True, capture_output=True, check=False)
    if done.returncode != 0:
        return []
    items = json.loads(done.stdout)["nftables"]
    return [{"kind": kind, **fields} for item in items for kind, fields in item.items()]


def _make_bridge(name: str, gateway: IPv4Address, subnet: IPv4Network) -> None:
    if name in _present():
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCBRADDBR, name.encode() + b"\0")
    _set("ipv6", name, "disable_ipv6", "1")
    # A published port of the loopback's: its answers come back by the bridge. The rules drop guests' own such packets.
    _set("ipv4", name, "route_localnet", "1")
    _set_up(name)
    _request(_SIOCSIFADDR, name, _address(gateway))
    _request(_SIOCSIFNETMASK, name, _address(subnet.netmask))
    forwarding = _SETTINGS / "ipv4/ip_forward"
    if forwarding.read_text().strip() == "0":
        forwarding.write_text("1")


def _present() -> set[str]:
    """The names of the interfaces of this network namespace, which /sys may not show."""
    return {name for _, name in socket.if_nameindex()}


def _drop_dead(item: Joined, places: Iterable[Place]) -> None:
    """The bridge that no machine has any more, and taps that were to outlive their VMM's start."""
    bridge, present = item.network.bridge, _present()
    live = {place.tap for place in item.places}
    for tap in {place.tap for place in places} & present - live:
        _drop_tap(tap)
    if not live and bridge in present:
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _set_up(bridge, up=False)
            fcntl.ioctl(control, _SIOCBRDELBR, bridge.encode() + b"\0")


def _open_tap(name: str, *, owner: int | None) -> int:
    tap = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        if owner is not None:
            fcntl.ioctl(tap, _TUNSETOWNER, owner)
            fcntl.ioctl(tap, _TUNSETPERSIST, 1)
        _set("ipv6", name, "disable_ipv6", "1")
    except BaseException:
        os.close(tap)
        raise
    return tap


def _drop_tap(name: str) -> None:
    """A tap that no process has; one that somebody has goes with him."""
    with suppress(OSError):
        tap = _open_tap(name, owner=None)
        fcntl.ioctl(tap, _TUNSETPERSIST, 0)
        os.close(tap)


def _set_up(name: str, *, up: bool = True) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16s24x", name.encode())
        (flags,) = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
    _request(_SIOCSIFFLAGS, name, struct.pack("H", flags | _IFF_UP if up else flags & ~_IFF_UP))


def _request(number: int, name: str, value: bytes) -> None:
    """One ioctl of netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, number, struct.pack("16s24s", name.encode(), value))


def _address(address: IPv4Address) -> bytes:
    """A sockaddr_in."""
    return struct.pack("=HH4s8x", socket.AF_INET, 0, address.packed)


def _set(family: str, name: str, setting: str, value: str) -> None:
    with suppress(FileNotFoundError):  # a kernel without that
        (_SETTINGS / family / "conf" / name / setting).write_text(value)


@contextmanager
def _kernel_errors(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise MachineError(
            f"{action}: {reason}", hint="firekiln network create -o carrier=user needs no root"
        ) from error
