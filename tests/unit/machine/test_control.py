import selectors
import socket
import threading

import pytest

from firekiln.machine.supervision import control
from firekiln.machine.supervision.unixsocket import socket_address
from firekiln.machine.vmm.hostfacts import HostFacts


class Running:
    """A control socket, served in a thread until it is told to finish."""

    def __init__(self, folder):
        self.requests = []
        self.over = threading.Event()
        self.selector = selectors.DefaultSelector()
        self.server = control.Server(folder, self.selector, self.handle)
        self.thread = threading.Thread(target=self.loop)

    def handle(self, request, _client, _rest):
        self.requests.append(request)
        return {} if request.get("do") == "signal" else control.Later("end")

    def loop(self):
        while not self.over.is_set():
            for key, ready in self.selector.select(0.02):
                key.data(ready)
        self.server.answer("end", {"exit_status": 3})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        with self.selector, self.server:
            pass


@pytest.fixture
def deep(tmp_path):
    """A folder whose path is longer than a socket's address may be."""
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    return folder


def test_a_signal_is_answered_at_once_and_a_wait_at_the_end(deep):
    with Running(deep) as running:
        assert control.ask(deep, {"do": "signal", "number": 15}, timeout=5) == {}
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(control.ask(deep, {"do": "wait"}, timeout=5)))
        waiting.start()
        while {"do": "wait"} not in running.requests:
            pass
        running.over.set()
        waiting.join()
    assert answers == [{"exit_status": 3}]
    assert control.ask(deep, {"do": "wait"}) is None


@pytest.mark.parametrize("data", [b"x" * 9000, b"", b"\n"])
def test_a_client_that_talks_nonsense_does_no_harm(deep, data):
    with Running(deep):
        with socket.socket(socket.AF_UNIX) as client:
            with socket_address(deep, control.NAME) as address:
                client.connect(address)
            client.sendall(data)
        assert control.ask(deep, {"do": "signal", "number": 1}, timeout=5) == {}


def test_where_no_supervisor_is_there_is_no_answer(tmp_path):
    assert control.ask(tmp_path, {"do": "wait"}) is None


def test_what_was_found_out_about_the_host_is_remembered_until_it_boots_again(tmp_path):
    path = tmp_path / "machines" / "host.json"
    facts = HostFacts(path)
    assert facts.get("kvm", bool) is None
    facts.put("kvm", value=False)
    facts.put("tsc_khz", 2_600_000)
    assert HostFacts(path).get("kvm", bool) is False
    assert HostFacts(path).get("tsc_khz", int) == 2_600_000
    assert HostFacts(path).get("tsc_khz", str) is None
    later = HostFacts(path)
    later._boot_id = "another"
    assert later.get("kvm", bool) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"boot_id": 1}'])
def test_a_damaged_memory_of_the_host_is_an_empty_one(tmp_path, content):
    path = tmp_path / "host.json"
    path.write_bytes(content)
    assert HostFacts(path).get("kvm", bool) is None
