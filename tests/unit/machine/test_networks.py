"""Networks of a store, what the flags ask for, and the kernel's rules."""

import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from firekiln.errors import ConflictError, UsageError
from firekiln.machine.network.firewall import Joined, ruleset
from firekiln.machine.network.networks import NetworkNotFoundError, Networks
from firekiln.machine.network.ports import hold
from firekiln.machine.network.request import NetworkRequest, interfaces, requests_of
from firekiln.machine.network.subnets import free_address, free_subnet, taken_subnets
from firekiln.machine.vmm.spec import PublishedPort

WEB, DB = "a" * 64, "b" * 64
PORT = PublishedPort(host_ip=IPv4Address("127.0.0.1"), host_port=8080, guest_port=80)
DNS = PublishedPort(host_ip=IPv4Address("0.0.0.0"), host_port=5353, guest_port=53, protocol="udp")


@pytest.fixture
def networks(tmp_path):
    return Networks(tmp_path)


def hosts(network):
    return (network.folder / "hosts").read_text()


def test_a_network_has_a_subnet_of_its_own_and_is_found_by_name_and_id(networks):
    front, back = networks.create("front"), networks.create("back", carrier="user")
    assert not front.subnet.overlaps(back.subnet)
    assert front.gateway == front.subnet[1]
    assert back.nameserver == back.subnet[-2]
    assert networks.get("front") == front == networks.get(front.id) == networks.get(front.id[:12])
    assert [item.name for item in networks.all()] == ["back", "front"]


def test_a_networks_name_is_not_given_twice_nor_what_means_something_else(networks):
    networks.create("front")
    for name in ("front", "bridge"):
        with pytest.raises(ConflictError, match="already exists"):
            networks.create(name)
    for name in ("host", "none", "default", "../x", "", "-x"):
        with pytest.raises(UsageError):
            networks.create(name)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"subnet": "10.5.0.1/24"}, "invalid subnet"),
        ({"subnet": "fd00::/64"}, "invalid subnet"),
        ({"subnet": "10.5.0.0/30"}, "too small"),
        ({"subnet": "10.5.0.0/24", "gateway": "10.6.0.1"}, "no configured subnet contains gateway"),
        ({"subnet": "10.5.0.0/24", "gateway": "10.5.0.255"}, "no configured subnet contains gateway"),
        ({"gateway": "x"}, "invalid gateway"),
    ],
)
def test_what_is_no_subnet_is_refused(networks, given, words):
    with pytest.raises(UsageError, match=words):
        networks.create("front", **given)
    assert networks.all() == []


def test_subnets_do_not_overlap(networks):
    networks.create("front", subnet="10.5.0.0/16")
    with pytest.raises(ConflictError, match="Pool overlaps"):
        networks.create("back", subnet="10.5.7.0/24")


def test_bridge_is_always_there_and_stays(networks):
    assert networks.all() == []
    bridge = networks.get("bridge")
    assert networks.get("bridge") == bridge
    with pytest.raises(ConflictError, match="cannot be removed"):
        networks.remove(bridge)


def test_machines_have_addresses_and_names_until_they_leave(networks):
    network = networks.create("front", carrier="user")
    web = networks.join(network, WEB, names=("web", "www"), ports=(PORT,))
    db = networks.join(network, DB, names=("db",))
    assert (web.address.ip, db.address.ip) == (network.subnet[2], network.subnet[3])
    assert web.mac != db.mac
    assert hosts(network) == f"{web.address.ip} web web.front www www.front\n{db.address.ip} db db.front\n"
    assert [place.ports for place in networks.places(network)] == [(PORT,), ()]
    networks.rename(WEB, "web", "shop")
    assert "web" not in hosts(network)
    assert "shop.front" in hosts(network)
    with pytest.raises(ConflictError, match="has active endpoints"):
        networks.remove(network)
    networks.leave(WEB)
    networks.leave(WEB)
    assert hosts(network) == f"{db.address.ip} db db.front\n"
    assert networks.join(network, WEB, names=("web",)).address == web.address
    for machine in (WEB, DB):
        networks.leave(machine)
    networks.remove(network)
    with pytest.raises(NetworkNotFoundError):
        networks.get("front")


def test_a_chosen_address_is_given_once_and_only_within_the_subnet(networks):
    network = networks.create("front", subnet="10.5.0.0/24")
    assert str(networks.join(network, WEB, names=("web",), address="10.5.0.40").address) == "10.5.0.40/24"
    with pytest.raises(ConflictError, match="Address already in use"):
        networks.join(network, DB, names=("db",), address="10.5.0.40")
    for taken in ("10.5.0.1", "10.5.0.0"):
        with pytest.raises((ConflictError, UsageError)):
            networks.join(network, DB, names=("db",), address=taken)
    with pytest.raises(UsageError, match="contains IP address"):
        networks.join(network, DB, names=("db",), address="10.6.0.2")


def test_many_who_join_at_once_have_addresses_of_their_own(networks, tmp_path):
    network = networks.create("front", carrier="user")
    with ThreadPoolExecutor(8) as pool:
        nics = list(pool.map(lambda n: Networks(tmp_path).join(network, f"{n:064}", names=(f"m{n}",)), range(24)))
    assert len({nic.address for nic in nics}) == 24
    assert len(hosts(network).splitlines()) == 24


def test_a_network_that_is_full_says_so(networks):
    network = networks.create("front", subnet="10.5.0.0/29", carrier="user")
    for number in range(4):
        networks.join(network, f"{number:064}", names=())
    with pytest.raises(ConflictError, match="no available IPv4 addresses"):
        networks.join(network, WEB, names=())


def test_subnets_of_this_hosts_ways_are_not_given_to_networks(tmp_path):
    routes = tmp_path / "route"
    routes.write_text(
        "Iface\tDestination\neth0\t00000000\t0\t0\t0\t0\t0\t00000000\nx\t0000D20A\t0\t0\t0\t0\t0\t00FFFFFF\n"
    )
    assert IPv4Network("10.210.0.0/24") in taken_subnets(routes)
    assert free_subnet(taken_subnets(routes)) == IPv4Network("10.210.1.0/24")
    assert taken_subnets(tmp_path / "none") == []


def test_when_all_subnets_are_taken_that_is_said():
    with pytest.raises(ConflictError, match="fully subnetted"):
        free_subnet([IPv4Network("10.0.0.0/8")])


def test_an_address_is_an_address():
    with pytest.raises(UsageError, match="invalid IPv4 address"):
        free_address(IPv4Network("10.5.0.0/24"), set(), "x", "front")


def test_flags_ask_for_networks_in_dockers_words():
    first, second = requests_of(
        ["front", "name=back,alias=db,alias=sql,ip=10.5.0.9,mac-address=02:00:00:00:00:01"],
        aliases=["www"],
        address="10.6.0.9",
    )
    assert first == NetworkRequest(name="front", aliases=("www",), address="10.6.0.9")
    assert second == NetworkRequest(name="back", aliases=("db", "sql"), address="10.5.0.9", mac="02:00:00:00:00:01")
    assert requests_of(()) == (NetworkRequest(name="default"),)


@pytest.mark.parametrize(
    ("networks", "more", "words"),
    [
        (["host"], {}, "--network host: a machine has a network of its own.*"),
        (["container:web"], {}, "--network container:web: .* shares none"),
        (["none", "front"], {}, "conflicting options"),
        (["front", "front"], {}, "given twice"),
        (["name=front,color=red"], {}, "color is not known"),
        (["alias=x"], {}, "name=NETWORK is missing"),
        ([], {"aliases": ["x"]}, "network-scoped alias"),
        (["bridge"], {"address": "10.5.0.2"}, "user defined networks only"),
        (["front"], {"mac": "01:00:00:00:00:01"}, "not a valid mac address"),
        (["front"], {"mac": "02-00-00-00-00"}, "not a valid mac address"),
        (["front"], {"aliases": ["a b"]}, "not a name"),
    ],
)
def test_what_a_machine_can_not_have_is_refused(networks, more, words):
    with pytest.raises(UsageError, match=words):
        requests_of(networks, **more)


def made(tmp_path, *words, ports=(), vmm="qemu", **more):
    return interfaces(tmp_path, requests_of(words, **more), WEB, name="web", ports=ports, vmm=vmm)


def test_without_a_word_a_machine_is_alone_behind_the_user_network(tmp_path):
    (nic,) = made(tmp_path, ports=(PORT,), mac="02:00:00:00:00:AB")
    assert (nic.network, nic.folder, nic.tap, nic.ports) == ("default", None, "", (PORT,))
    assert nic.mac == "02:00:00:00:00:AB"
    assert made(tmp_path, "none") == ()
    with pytest.raises(UsageError, match="conflicting options"):
        made(tmp_path, "none", ports=(PORT,))


def test_ports_are_published_on_the_first_network(tmp_path, networks):
    networks.create("front", carrier="user")
    networks.create("back", carrier="kernel")
    front, back = made(tmp_path, "front", "back", ports=(PORT,), mac="02-00-00-00-00-AB")
    assert (front.ports, back.ports, front.mac) == ((PORT,), (), "02:00:00:00:00:ab")
    assert (front.tap, front.bridge) == ("", "")
    assert len(back.tap) <= 15
    assert len(back.bridge) <= 15
    assert networks.places(networks.get("front"))[0].names == ("web", WEB[:12])


def test_an_internal_network_publishes_nothing(tmp_path, networks):
    networks.create("front", is_internal=True)
    with pytest.raises(UsageError, match="is internal"):
        made(tmp_path, "front", ports=(PORT,))


def test_firecracker_needs_a_network_of_the_kernels(tmp_path, networks):
    networks.create("front", carrier="user")
    with pytest.raises(UsageError, match="takes frames from a tap"):
        made(tmp_path, "front", vmm="firecracker")


@pytest.mark.skipif(os.geteuid() != 0, reason="root's networks are the kernel's")
def test_firecrackers_default_is_bridge_as_root(tmp_path):
    (nic,) = made(tmp_path, ports=(PORT,), vmm="firecracker")
    assert (nic.network, bool(nic.tap), nic.ports) == ("bridge", True, (PORT,))


def joined(tmp_path):
    networks = Networks(tmp_path)
    front, back = (
        networks.create("front", carrier="kernel"),
        networks.create("back", carrier="kernel", is_internal=True),
    )
    networks.join(front, WEB, names=("web",), ports=(PORT, DNS))
    networks.join(back, DB, names=("db",))
    return [Joined(network=item, places=tuple(networks.places(item))) for item in (front, back)]


def test_the_rules_hold_what_is_published_and_whose_each_address_is(tmp_path):
    both = joined(tmp_path)
    text = ruleset("firekiln_x", both)
    web, db = (item.places[0] for item in both)
    assert f"ip daddr 127.0.0.1 meta nfproto ipv4 tcp dport 8080 dnat ip to {web.address}:80\n" in text
    assert f"    meta nfproto ipv4 udp dport 5353 dnat ip to {web.address}:53\n" in text
    for place in (web, db):
        assert f"iifname {place.tap} ether saddr != {place.mac} drop" in text
        assert f"iifname {place.tap} ether type ip ip saddr != {place.address} drop" in text
    assert f"iifname {{ {both[1].network.bridge} }} drop" in text
    assert f"oifname != {both[1].network.bridge} ip saddr" not in text
    assert "ip daddr { 169.254.0.0/16 } drop" in text


def test_where_no_machine_runs_no_rule_is_left():
    assert ruleset("firekiln_x", []) == (
        "table inet firekiln_x\ndelete table inet firekiln_x\ntable bridge firekiln_x\ndelete table bridge firekiln_x\n"
    )


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nftables")
def test_nft_reads_the_rules_and_they_replace_themselves(tmp_path):
    text = ruleset("firekiln_x", joined(tmp_path)) * 2 + ruleset("firekiln_x", [])
    done = subprocess.run(["unshare", "-n", "nft", "-f", "-"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_of_two_who_race_for_a_port_one_has_it(protocol):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, protocol == "tcp")
        other.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            other.listen()
        port = replace(PORT, host_port=other.getsockname()[1], protocol=protocol)
        with pytest.raises(ConflictError, match="port is already allocated"), hold(port):
            pass


def test_machines_without_a_network_take_none_of_the_locks(tmp_path):
    Networks(tmp_path).leave(WEB)
    Networks(tmp_path).rename(WEB, "web", "shop")
    assert [*tmp_path.iterdir()] == []


FIREWALL = """
table ip filter {
  chain DOCKER-USER { return; }
  chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }
}
"""
OPENED = "from firekiln.machine.network.kernel import open_host_firewall as opened; opened(True); opened({again})"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nftables")
@pytest.mark.parametrize(("again", "rules"), [(True, 2), (False, 0)])
def test_a_firewall_that_drops_what_it_does_not_know_lets_our_bridges_pass_while_there_are_any(again, rules):
    lines = [
        "nft -f -",
        f"'{sys.executable}' -c '{OPENED.format(again=again)}'",
        "nft list chain ip filter DOCKER-USER",
    ]
    argv = ["unshare", "-n", "sh", "-ec", "\n".join(lines)]
    done = subprocess.run(argv, input=FIREWALL, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"fk*" accept comment "firekiln"') == rules
