"""What upstream's Dockerfiles become: machines that start their service by upstream's own entrypoint, as its user."""

from __future__ import annotations

import re
import socket
import time
import urllib.request

import pytest

import firekiln as package
import isolation
from firekiln.machine.network.networks import Networks
from firekiln.machine.network.request import NetworkRequest
from machines import output
from upstream import online, standins, table
from upstream.texts import TEXTS, Text, bases, declared

pytestmark = [
    pytest.mark.root,
    isolation.needed,
    pytest.mark.skipif(bool(standins.missing()), reason=str(standins.missing())),
]
_PATIENCE = 60  # seconds


@pytest.fixture(scope="module", autouse=True)
def own_kernel_where_there_is_one(store, request):
    """The store prefers it to Debian's."""
    try:
        folder = request.getfixturevalue("own_kernel").image.parent
    except pytest.skip.Exception:
        return
    (store.kernels / folder.name).symlink_to(folder)


@pytest.fixture(scope="module")
def images(store, tmp_path_factory):
    """Builds the image of a text, once."""
    standins.put_bases(store)
    built = {}

    def build(text: Text) -> str:
        if text.path not in built:
            context = tmp_path_factory.mktemp("upstream") / "context"
            standins.write_context(context, text.context, text.ignore)
            options = {"dockerfile": text.file, "build_args": text.build_args, "store": store, "pull": "never"}
            built[text.path] = package.build(context, **options).digest
        return built[text.path]

    return build


def of(product: str):
    """Each text of a product; those that are not quick are for `scripts/test --all`."""
    chosen = [
        pytest.param(text, id=text.path, marks=() if text.quick else pytest.mark.slow)
        for text in TEXTS
        if text.product == product
    ]
    return pytest.mark.parametrize("text", chosen)


def ask(port: int) -> str:
    """What the service says of itself; it may still be starting."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=_PATIENCE) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def ask_datagram(port: int) -> str:
    """QEMU's user network may drop the first datagram, as any network may: ask again."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(2)
        for _ in range(5):
            asking.sendto(b"?", ("127.0.0.1", port))
            try:
                return asking.recv(512).decode()
            except TimeoutError:
                continue
    raise TimeoutError(f"no answer from port {port}/udp")


def facts(page: str) -> dict[str, str]:
    return dict(
        re.findall(r"^(product|user|arguments|CapEff): *(.*)$", page.replace("CapEff:\t", "CapEff: "), re.MULTILINE)
    )


def environment(page: str) -> dict[str, str]:
    return dict(re.findall(r"^env: ([^=\n]+)=(.*)$", page, re.MULTILINE))


def expected_environment(store, text: Text) -> dict[str, str]:
    source = text.file.read_text()
    base = standins.base_env(store, bases(source)[-1])
    return {**base, **declared(source, text.build_args, base).env}


def published(machine) -> dict[str, int]:
    """Where each port of the guest, such as `8600/udp`, answers on the host."""
    return {f"{port.guest_port}/{port.protocol}": port.host_port for port in machine.ports}


def end(machine, product: str) -> str:
    """Stop it; the last word, which the service has only by way of the signal that Docker would send."""
    machine.stop()
    assert machine.wait() == 0, output(machine, "stderr")
    assert f"{product}: signal 15: shutting down\n" in output(machine)
    return "ends by SIGTERM with 0"


@of("consul")
def test_upstream_consul_serves_as_its_user_on_each_exposed_port(store, images, boot, text):
    digest = images(text)
    exposed = store.images.get(digest).image.config.exposed_ports
    machine = boot(image=digest, publish=tuple(f"127.0.0.1::{port}".replace("::", ":0:") for port in exposed))
    ports = published(machine)
    assert set(ports) == set(exposed)
    pages = {port: ask(at) for port, at in ports.items() if port.endswith("/tcp")}
    for port, at in ports.items():
        if port.endswith("/udp"):
            assert ask_datagram(at) == f"consul {port} user 100\n"
    page = pages["8500/tcp"]
    said = facts(page)
    assert {facts(page)["user"] for page in pages.values()} == {"100:1000"}
    agent = "[consul] [agent] [-data-dir=/consul/data] [-config-dir=/consul/config] [-dev] [-client] [0.0.0.0]"
    assert said["arguments"] == agent
    assert expected_environment(store, text).items() <= environment(page).items()
    assert said["CapEff"] == "0" * 16
    version = text.file.read_text().split("CONSUL_VERSION=")[1].split()[0]
    assert said["product"] == f"consul {version}"
    started = f"consul {version}: serving as 100:1000\n"
    assert started in output(machine)
    assert "[dumb-init]" in output(machine, "stderr")
    last = end(machine, "consul")
    answers = f"consul {version}, uid 100 gid 1000, answers on {len(pages)} TCP and {len(ports) - len(pages)} UDP ports"
    table.hold(text.path, "What the VM answered", f"{answers}; `agent -dev -client 0.0.0.0` by dumb-init; {last}")


@of("minio")
def test_upstream_minio_serves_its_volume_on_port_9000(store, images, boot, text):
    machine = boot("server", "/data", image=images(text), publish=("127.0.0.1:0:9000",))
    page = ask(published(machine)["9000/tcp"])
    said = facts(page)
    assert said["arguments"] == "[minio] [server] [/data]"
    assert said["user"] == "0:0"
    assert expected_environment(store, text).items() <= environment(page).items()
    answers = f"{said['product']}, uid 0, answers on 9000; `minio server /data` by docker-entrypoint.sh"
    table.hold(text.path, "What the VM answered", f"{answers}; {end(machine, 'minio')}")


@pytest.fixture(scope="module")
def brokers(store):
    """A network on which machines reach each other: the host's own ports answer none."""
    return Networks(store.root).create("brokers", carrier="user")


@of("kafka-proxy")
def test_upstream_kafka_proxy_proxies_a_connection_from_a_privileged_port(images, boot, brokers, text):
    wanted = (NetworkRequest(name=brokers.name),)
    answering = ("nc", "-ll", "-p", "7", "-e", "sh", "-c", "printf 'you said: '; exec cat")
    broker = boot(*answering, networks=wanted)
    mapping = f"{broker.settings.spec.nics[0].address.ip}:7,0.0.0.0:92"
    machine = boot(
        "server",
        f"--bootstrap-server-mapping={mapping}",
        image=images(text),
        publish=("127.0.0.1:0:92", "127.0.0.1:0:9080"),
        networks=wanted,
    )
    ports = published(machine)
    said = facts(ask(ports["9080/tcp"]))
    with socket.create_connection(("127.0.0.1", ports["92/tcp"]), timeout=_PATIENCE) as connection:
        connection.sendall(b"through the machine")
        connection.shutdown(socket.SHUT_WR)
        echoed = b"".join(iter(lambda: connection.recv(4096), b""))
    assert echoed == b"you said: through the machine"
    assert said["arguments"] == f"[/opt/kafka-proxy/bin/kafka-proxy] [server] [--bootstrap-server-mapping={mapping}]"
    if declared(text.file.read_text(), text.build_args, {"PATH": ""}).user:
        assert (said["user"], said["CapEff"]) == ("1000:1000", "0000000000000400")  # cap_net_bind_service alone
        who = "uid 1000 gid 1000 with cap_net_bind_service"
    else:
        assert said["user"] == "0:0"
        who = "uid 0"
    # As it is: CMD is --help.
    printing = boot(image=images(text))
    assert printing.wait() == 0
    assert output(printing).startswith("Usage:\n  kafka-proxy [command]\n")
    answers = f"{said['product']}: as it is prints its help and ends with 0; with `server …`, {who}"
    last = end(machine, "kafka-proxy")
    table.hold(text.path, "What the VM answered", f"{answers}, passes a connection on from port 92; {last}")


@pytest.mark.slow
def test_upstream_consul_may_be_allowed_privileged_ports_when_it_starts(images, boot):
    """The entrypoint calls `setcap` in the machine, on the overlay."""
    machine = boot(
        *"agent -dev -client 0.0.0.0 -dns-port=53".split(),
        image=images(TEXTS[0]),
        env=("CONSUL_ALLOW_PRIVILEGED_PORTS=",),
        publish=("127.0.0.1:0:53/udp", "127.0.0.1:0:8500"),
    )
    said = facts(ask(published(machine)["8500/tcp"]))
    assert (said["user"], said["CapEff"]) == ("100:1000", "0000000000000400")
    assert ask_datagram(published(machine)["53/udp"]) == "consul 53/udp user 100\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "user"),
    [("minio/Dockerfile.release.2021-03", "1000:1000"), ("minio/Dockerfile.release.head", "1000:1000")],
)
def test_upstream_minio_changes_to_the_user_that_the_environment_names(images, boot, path, user):
    """The entrypoint adds the user in the machine, by `useradd` and `setpriv` or by `chroot --userspec`."""
    text = next(text for text in TEXTS if text.path == path)
    env = ("MINIO_USERNAME=keeper", "MINIO_GROUPNAME=keepers")
    machine = boot("server", "/tmp/data", image=images(text), env=env, publish=("127.0.0.1:0:9000",))
    assert facts(ask(published(machine)["9000/tcp"]))["user"] == user


@pytest.mark.slow
@pytest.mark.parametrize("path", ["consul/0.X/Dockerfile.head", "kafka-proxy/Dockerfile.head"])
def test_the_online_form_of_upstream_boots_and_asks(store, images, path):
    text = next(text for text in TEXTS if text.path == path)
    said = online.answer(store, text, images(text))
    assert said in {"/v1/status/leader on 8500: 200; ends with 0", "prints its help and ends with 0"}
