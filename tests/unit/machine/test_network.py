import socket
from ipaddress import IPv4Address

import pytest

from firekiln.errors import ConflictError, UsageError
from firekiln.machine.network.ports import allocate, mac_address, parse_publish


def parsed(text):
    return [(str(r.host_ip), r.host_ports, r.guest_port, r.protocol) for r in parse_publish(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", [("127.0.0.1", (8080,), 80, "tcp")]),
        ("80", [("127.0.0.1", None, 80, "tcp")]),
        ("0.0.0.0:8080:80/udp", [("0.0.0.0", (8080,), 80, "udp")]),
        ("127.0.0.1::80/TCP", [("127.0.0.1", None, 80, "tcp")]),
        ("8000-8001:80-81", [("127.0.0.1", (8000,), 80, "tcp"), ("127.0.0.1", (8001,), 81, "tcp")]),
        ("8000-8002:80", [("127.0.0.1", (8000, 8001, 8002), 80, "tcp")]),
        ("80-81", [("127.0.0.1", None, 80, "tcp"), ("127.0.0.1", None, 81, "tcp")]),
    ],
)
def test_a_port_is_published_as_docker_says_it(text, expected):
    assert parsed(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a:80", "80:0", "70000:80", "8000-8001:80-82", "81-80:80", "80/sctp", "300.1.1.1:1:1", "[::1]:80:80"]
)
def test_what_is_no_port_is_refused(text):
    with pytest.raises(UsageError, match="invalid port to publish"):
        parse_publish(text)


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            ConflictError, match=f"Bind for 127.0.0.1:{port} failed: port is already allocated"
        ) as caught:
            allocate(parse_publish(f"{port}:80"))
    assert caught.value.exit_status == 125


def test_of_a_range_the_first_free_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (chosen,) = allocate(parse_publish(f"{port}-{port + 20}:80"))
    assert port < chosen.host_port <= port + 20


def test_one_port_is_not_published_twice():
    (free,) = allocate(parse_publish("80"))
    requests = parse_publish(f"{free.host_port}:80") + parse_publish(f"{free.host_port}:81")
    with pytest.raises(ConflictError):
        allocate(requests)


def test_tcp_and_udp_do_not_disturb_each_other():
    (free,) = allocate(parse_publish("53/udp"))
    requests = parse_publish(f"{free.host_port}:53") + parse_publish(f"{free.host_port}:53/udp")
    assert [str(port) for port in allocate(requests)] == [
        f"127.0.0.1:{free.host_port}->53/tcp",
        f"127.0.0.1:{free.host_port}->53/udp",
    ]
    assert allocate(requests)[0].host_ip == IPv4Address("127.0.0.1")


def test_every_machine_has_a_hardware_address_of_its_own():
    assert mac_address("a") == mac_address("a") != mac_address("b")
    assert mac_address("a").startswith("52:54:00:")


@pytest.mark.parametrize("text", ["80", "0:80", "127.0.0.1::80", "127.0.0.1:0:80"])
def test_without_a_port_of_the_host_or_with_0_any_free_one_is_taken(text):
    (request,) = parse_publish(text)
    assert request.host_ports is None
    (port,) = allocate([request])
    assert 1024 <= port.host_port <= 65535
