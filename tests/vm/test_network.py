"""Networks of machines, booted: who finds whom, what is published, what of the host does not answer."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import isolation
import worlds
from firekiln.machine.kernel import default_kernel
from firekiln.store import Store
from isolation import AS_USER, BIN, USER
from machines import busybox, put_image
from trees import file, folder
from worlds import HOST, HOST_PORT, METADATA, WORLD, Host, world

pytestmark = [
    *worlds.needed,
    pytest.mark.skipif(not shutil.which("musl-gcc"), reason="needs musl-tools, for a service of UDP"),
]

ECHO = r"""
#include <arpa/inet.h>
#include <sys/socket.h>
int main(void)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(5000) }, from;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	char data[2048];
	if (bind(fd, (struct sockaddr *)&own, sizeof own))
		return 1;
	for (;;) {
		socklen_t size = sizeof from;
		ssize_t got = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &size);
		if (got > 0)
			sendto(fd, data, got, 0, (struct sockaddr *)&from, size);
	}
}
"""
SERVE = "httpd -h /www; echo ready; exec /bin/echoes"
ASK = """
get() { echo "$1:$2 $(printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 $1 $2 2>&1 | tail -n 1)"; }
for place in PLACES; do get ${place%:*} ${place#*:} & done; wait
for name in NAMES; do echo "$name $(nslookup $name | grep -A 9 '^Name:' | grep '^Address: ')"; done
"""
FETCH = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=20) as stream:
    stream.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print(stream.makefile("rb").read().decode())
"""
PING = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
    datagrams.settimeout(20)
    datagrams.sendto(b"ping", ("127.0.0.1", int(sys.argv[1])))
    print(datagrams.recv(99).decode())
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """busybox, and a service that answers each datagram at port 5000 with itself."""
    scratch = tmp_path_factory.mktemp("echo")
    (scratch / "echo.c").write_text(ECHO)
    subprocess.run(["musl-gcc", "-static", "-Os", "-o", scratch / "echoes", scratch / "echo.c"], check=True)
    echoes = folder({b"bin": folder({b"echoes": file((scratch / "echoes").read_bytes(), mode=0o755)})})
    return busybox(), echoes


@dataclass(frozen=True, slots=True, kw_only=True)
class Firekiln:
    """The command line on a host with a world beyond it."""

    host: Host
    words: tuple[str, ...]

    def __call__(self, *argv):
        return self.host.checked(*self.words, *argv)

    def ask(self, *places, names=(), flags=()):
        """What a machine hears at places (`ADDRESS:PORT`), and which addresses it finds for names."""
        script = ASK.replace("PLACES", " ".join(places)).replace("NAMES", " ".join(names))
        lines = self("run", "--rm", *flags, "net", "sh", "-c", script).splitlines()
        return {line.partition(" ")[0]: line.partition(" ")[2].removeprefix("Address: ") for line in lines}


def filled(root: Path, kernel_folder: Path, layers) -> None:
    kernel = default_kernel(kernel_folder, "amd64")
    with Store.open(root) as store:
        (store.kernels / kernel.image.parent.name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(kernel.image.parent, store.kernels / kernel.image.parent.name, symlinks=False)
        put_image(store, "net", *layers, cmd=("/bin/sh",))


@contextlib.contextmanager
def by_root(kernel_folder, image, tmp_path):
    filled(tmp_path / "store", kernel_folder, image)
    with world() as host:
        command = Firekiln(host=host, words=(sys.executable, "-m", "firekiln", "--root", str(tmp_path / "store")))
        try:
            yield command
        finally:
            host.run(*command.words, "rm", "-f", *command("ps", "-aq").split())


@contextlib.contextmanager
def by_a_user(kernel_folder, image, _):
    with isolation.home() as home, world() as host:
        filled(home / "store", kernel_folder, image)
        subprocess.run(["chown", "-R", f"{USER}:{USER}", home], check=True)
        words = (str(AS_USER), "--home", str(home), f"{BIN}/firekiln", "--root", f"{home}/store")
        command = Firekiln(host=host, words=words)
        try:
            yield command
        finally:
            host.run(*command.words, "rm", "-f", *command("ps", "-aq").split())


def refused(answer: str) -> bool:
    return "world" not in answer and "host" not in answer.replace("remote host", "") and "machine" not in answer


def test_by_default_a_guest_reaches_the_world_and_nothing_of_its_host(kernel_folder, image, tmp_path):
    with by_root(kernel_folder, image, tmp_path) as firekiln:
        closed = [f"{place}:{HOST_PORT}" for place in (HOST, "10.0.2.2", "10.0.2.3", "10.0.2.9")]
        heard = firekiln.ask(f"{WORLD}:80", f"{METADATA}:80", *closed)
        assert heard.pop(f"{WORLD}:80") == "world"
        assert len(heard) == 5
        assert all(map(refused, heard.values())), heard


@pytest.mark.parametrize("mode", [by_root, by_a_user], ids=["root", "user"])
def test_machines_of_a_network_find_each_other_and_publish_and_nothing_else_answers(
    mode, kernel_folder, image, tmp_path
):
    with mode(kernel_folder, image, tmp_path) as firekiln:
        firekiln("network", "create", "front")
        publish = ("-p", "80", "-p", "5000/udp")
        flags = ("--name", "web", "--network", "front", "--network-alias", "www", *publish)
        firekiln("run", "-d", *flags, "net", "sh", "-c", SERVE)
        address = firekiln("inspect", "-f", "{{.NetworkSettings.Networks.front.IPAddress}}", "web")
        gateway = firekiln("inspect", "-f", "{{.NetworkSettings.Gateway}}", "web")
        ports = dict(line.split(" -> ") for line in firekiln("port", "web").splitlines())
        tcp, udp = (ports[port].rpartition(":")[2] for port in ("80/tcp", "5000/udp"))

        assert firekiln.host.python(FETCH, tcp).endswith("hello from the machine\n".strip())
        assert firekiln.host.python(PING, udp) == "ping"
        closed = [f"{METADATA}:80", f"{HOST}:{HOST_PORT}", f"{gateway}:{HOST_PORT}"]
        names = ("web", "www", "WEB.front")
        heard = firekiln.ask(f"{address}:80", f"{WORLD}:80", *closed, names=names, flags=("--network", "front"))
        assert [heard[name] for name in names] == [address] * 3
        assert heard[f"{address}:80"] == "hello from the machine"
        assert heard[f"{WORLD}:80"] == "world"
        assert all(refused(heard[place]) for place in closed), heard

        firekiln("rm", "-f", "web")
        firekiln("network", "rm", "front")
        left = firekiln.host.checked("ip", "-o", "link"), firekiln.host.checked("nft", "list", "tables")
        assert (left[0].count("\n"), "fk" in left[0], left[1]) == (1, False, "")


@pytest.mark.slow
@pytest.mark.parametrize("mode", [by_root, by_a_user], ids=["root", "user"])
def test_networks_do_not_see_each_other_and_internal_ones_nothing_else(mode, kernel_folder, image, tmp_path):
    with mode(kernel_folder, image, tmp_path) as firekiln:
        firekiln("network", "create", "front")
        firekiln("network", "create", "--internal", "back")
        found = {}
        for name, networks in (("web", ["front"]), ("db", ["back"]), ("both", ["front", "back"])):
            flags = [word for network in networks for word in ("--network", network)]
            firekiln("run", "-d", "--name", name, *flags, "net", "sh", "-c", SERVE)
            template = "{{.NetworkSettings.Networks." + networks[-1] + ".IPAddress}}"
            found[name] = firekiln("inspect", "-f", template, name)
        places = {name: f"{address}:80" for name, address in found.items()}

        front = firekiln.ask(*places.values(), names=("web", "db", "both"), flags=("--network", "front"))
        assert front[places["web"]] == "hello from the machine"
        assert refused(front[places["db"]])
        assert refused(front[places["both"]])
        assert (front["db"], bool(front["both"])) == ("", True)

        back = firekiln.ask(*places.values(), f"{WORLD}:80", names=("db", "web"), flags=("--network", "back"))
        assert back[places["db"]] == back[places["both"]] == "hello from the machine"
        assert refused(back[places["web"]])
        assert refused(back[f"{WORLD}:80"])
        assert back["web"] == ""

        both = firekiln.ask(
            places["web"], places["db"], names=("web", "db"), flags=("--network", "front", "--network", "back")
        )
        assert both[places["web"]] == both[places["db"]] == "hello from the machine"
        assert (both["web"], both["db"]) == (found["web"], found["db"])
