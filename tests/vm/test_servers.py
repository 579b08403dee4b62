"""The images of `examples/`: real servers, built and booted by the command line, and used by their own clients."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from firekiln import api
from firekiln.errors import FirekilnError
from firekiln.machine.machine import Machine
from firekiln.machine.supervision.state import State
from firekiln.store import Store
from machines import argv

pytestmark = [pytest.mark.network, pytest.mark.timeout(3600)]

EXAMPLES = Path(__file__).parents[2] / "examples"
DEADLINE = 900
"""In seconds: a whole system on a busy host without KVM takes its time."""
PAUSE = 0.1


class Servers:
    """Machines of the examples, started and asked by the command line as a user would."""

    def __init__(self, store):
        self.store = store

    def __call__(self, *args, status=0):
        """Run a command that must end with this status; what it wrote on its standard output."""
        done = subprocess.run(argv(self.store, *args), capture_output=True, check=False, timeout=DEADLINE)
        assert done.returncode == status, (args, done)
        return done.stdout.decode()

    def run(self, example, *options):
        """Build an example and start a machine of it; the machine's id."""
        self("build", "-q", "-t", example, EXAMPLES / example)
        return self("run", "-d", *options, example).strip()

    def address(self, machine, port):
        """Where a port of a machine answers on this host."""
        host, _, number = self("port", machine, str(port)).strip().rpartition(":")
        return host, int(number)

    def inspect(self, machine, template):
        return self("inspect", "-f", template, machine).strip()

    def errors(self, machine):
        """What a machine's process wrote on its standard error."""
        done = subprocess.run(argv(self.store, "logs", machine), capture_output=True, check=True)
        return done.stderr.decode()

    def remove(self):
        state = State(self.store.machines)
        for record in state.list():
            Machine(state, record.id).remove(force=True)


@pytest.fixture(scope="module")
def store(own_kernel, tmp_path_factory):
    """A store with our own kernel and Debian, which all of the examples are made from."""
    if os.geteuid() != 0:
        pytest.skip("RUN needs root")
    with Store.open(tmp_path_factory.mktemp("servers")) as made:
        (made.kernels / own_kernel.image.parent.name).symlink_to(own_kernel.image.parent)
        try:
            api.create_base("debian:bookworm-slim", store=made)
        except FirekilnError as error:
            pytest.skip(f"no base: {error}")
        yield made


@pytest.fixture
def servers(store):
    made = Servers(store)
    yield made
    made.remove()


def eventually(ask, *errors):
    """What `ask` returns once it raises none of these errors and returns something true."""
    deadline = time.monotonic() + DEADLINE
    while True:
        with contextlib.suppress(*errors):
            if answer := ask():
                return answer
        assert time.monotonic() < deadline, "no answer in time"
        time.sleep(PAUSE)


def needs(program):
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs {program}")
    return path


def curl(address, *args):
    """What curl prints of a page; "" where nothing answers yet."""
    url = f"http://{address[0]}:{address[1]}"
    done = subprocess.run([needs("curl"), "-s", "-m", "5", *args, url], capture_output=True, check=False)
    return done.stdout.decode()


def redis(address, *words):
    """Redis's answer to one command, by RESP."""
    command = b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(b"*%d\r\n%s" % (len(words), command))
        return connection.recv(4096).decode()


def psql(address, statement):
    """What a statement yields, by PostgreSQL's own client; "" where nobody answers yet."""
    line = [needs("psql"), "-h", address[0], "-p", str(address[1]), "-U", "postgres", "-qtAX", "-c", statement]
    environment = {**os.environ, "PGPASSWORD": "secret", "PGCONNECT_TIMEOUT": "5"}
    done = subprocess.run(line, env=environment, capture_output=True, check=False)
    return done.stdout.decode().strip()


def test_nginx_serves_its_page_takes_another_and_ends_in_peace(servers):
    machine = servers.run("nginx", "-P")
    address = servers.address(machine, 80)
    page = eventually(lambda: curl(address))
    assert page == (EXAMPLES / "nginx/index.html").read_text()
    assert "HTTP/1.1 200 OK" in curl(address, "-I")
    servers("cp", EXAMPLES / "nginx/Dockerfile", f"{machine}:/var/www/html/index.html")
    assert curl(address) == (EXAMPLES / "nginx/Dockerfile").read_text()
    assert '"GET / HTTP/1.1" 200' in servers("logs", machine)
    assert "nginx: worker process" in servers("top", machine)
    assert servers("exec", machine, "nginx", "-t") == ""
    assert (
        servers("ps", "--format", "{{.Command}} {{.Ports}}")
        == f'"nginx -g \'daemon of…" {address[0]}:{address[1]}->80/tcp\n'
    )
    servers("rm", machine, status=1)
    servers("stop", machine)
    assert servers("wait", machine) == "0\n"
    assert servers.inspect(machine, "{{.Config.StopSignal}} {{.State.Status}}") == "SIGQUIT exited"


@pytest.mark.slow
def test_redis_keeps_its_data_in_a_volume_when_it_restarts_and_for_the_next_machine(servers):
    machine = servers.run("redis", "-P", "-v", "keys:/data")
    address = servers.address(machine, 6379)
    assert eventually(lambda: redis(address, "PING"), OSError) == "+PONG\r\n"
    assert redis(address, "SET", "name", "firekiln") == "+OK\r\n"
    assert servers("exec", machine, "redis-cli", "get", "name") == "firekiln\n"
    eventually(lambda: servers.inspect(machine, "{{.State.Health.Status}}") == "healthy")
    servers("stop", machine)
    assert servers.inspect(machine, "{{.State.ExitCode}}") == "0"
    servers("start", machine)
    assert kept(servers.address(machine, 6379)) == "$8\r\nfirekiln\r\n"
    servers("rm", "-f", machine)
    other = servers.run("redis", "-P", "-v", "keys:/data")
    assert kept(servers.address(other, 6379)) == "$8\r\nfirekiln\r\n"


def kept(address):
    """What redis has of `name`, once it answers and has read its file."""
    return eventually(lambda: (answer := redis(address, "GET", "name"))[:1] == "$" and answer, OSError)


@pytest.mark.slow
def test_postgres_makes_its_cluster_once_and_the_volume_outlives_the_machine(servers):
    servers("build", "-q", "-t", "postgres", EXAMPLES / "postgres")
    servers("run", "--rm", "postgres", status=2)  # without a password
    data = ("-v", "cluster:/var/lib/postgresql/data")
    machine = servers.run("postgres", "-P", "-e", "POSTGRES_PASSWORD=secret", *data)
    address = servers.address(machine, 5432)
    assert eventually(lambda: psql(address, "select current_user")) == "postgres"
    psql(address, "create table numbers as select generate_series(1, 1000) as number")
    assert servers("exec", machine, "psql", "-tAc", "select sum(number) from numbers") == "500500\n"
    servers("restart", machine)
    address = servers.address(machine, 5432)
    assert eventually(lambda: psql(address, "select count(*) from numbers")) == "1000"
    servers("stop", machine)
    assert servers.inspect(machine, "{{.State.ExitCode}}") == "0"
    assert servers("logs", machine).count("Success. You can now start the database server") == 1
    assert servers.errors(machine).endswith("database system is shut down\n")
    servers("rm", machine)
    address = servers.address(servers.run("postgres", "-P", *data), 5432)
    assert eventually(lambda: psql(address, "select count(*) from numbers")) == "1000"


@pytest.mark.slow
def test_a_python_application_is_healthy_until_it_is_broken(servers):
    machine = servers.run("webapp", "-P", "-e", "PORT=8000")
    address = servers.address(machine, 8000)
    assert json.loads(eventually(lambda: curl(address)))["visits"] >= 1
    eventually(lambda: servers.inspect(machine, "{{.State.Health.Status}}") == "healthy")
    eventually(lambda: "(healthy)" in servers("ps"))
    host, port = address
    curl((host, f"{port}/break"), "-X", "POST")
    eventually(lambda: servers("ps", "-q", "--no-trunc", "-f", "health=unhealthy").strip() == machine)
    # The last five of them; on a busy host a check may run out of its time instead.
    eventually(lambda: "503" in servers.inspect(machine, "{{json .State.Health.Log}}"))


@pytest.mark.slow
def test_a_static_program_in_an_empty_image_answers(servers):
    machine = servers.run("static", "-p", "127.0.0.1:0:7777")
    address = servers.address(machine, 7777)

    def ask():
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(b"hello")
            return connection.recv(16)

    assert eventually(ask, OSError) == b"hello"
    assert servers("logs", machine) == "echo: port 7777, as 65532:65532\n"
    servers("exec", machine, "sh", status=127)
    servers("stop", machine)
    assert servers.inspect(machine, "{{.State.ExitCode}}") == "0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "process", "question", "answer", "last"),
    [
        (
            "systemd",
            "systemd",
            "systemctl is-active firekiln-app; systemctl is-system-running --wait",
            "active\nrunning\n",
            "reboot: Power down",
        ),
        ("sysvinit", "init", "runlevel", "N 2\n", "reboot: Power down"),
        (
            "openrc",
            "init",
            "rc-service firekiln-app status; rc-status --runlevel",
            " * status: started\ndefault\n",
            "All processes ended",  # what Debian's OpenRC does behind that is not seen: docs/how-to/own-init.md
        ),
    ],
)
def test_a_whole_system_starts_the_application_by_its_own_init(servers, example, *, process, question, answer, last):
    machine = servers.run(example, "-P", "--init=image")
    address = servers.address(machine, 8080)
    assert eventually(lambda: curl(address)) == (EXAMPLES / example / "index.html").read_text()
    assert servers("exec", machine, "cat", "/proc/1/comm") == f"{process}\n"
    assert servers("exec", "-u", "root", machine, "sh", "-c", question) == answer
    assert "response:200" in servers.errors(machine)
    servers("stop", "-t", "300", machine)
    assert servers.inspect(machine, "{{.State.Status}} {{.State.ExitCode}}") == "exited 143"
    console = (servers.store.machines / machine / "console.log").read_text(errors="replace")
    assert last in console
