"""The carrier itself, with frames of the test's own at both of its sockets; its C sources' own tests."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from firekiln.errors import MachineError
from firekiln.machine.network.carrier import carrier_argv, start_carrier
from firekiln.machine.network.link import Links
from firekiln.machine.vmm.spec import MachineSpec, Nic

CARRIER = Path(__file__).parents[3] / "carrier"
OUTSIDE = bytes.fromhex("525500000001")
UDP, TCP = 17, 6
SYN = 2
PATIENCE = 10.0
SILENCE = 0.3


@pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("make")), reason="gcc and make compile the tests")
def test_the_carriers_own_unit_tests_pass_under_the_sanitizers(tmp_path):
    done = subprocess.run(
        ["make", "-s", "-C", str(CARRIER), "test", f"TEST_OUT={tmp_path}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def nic(folder=None, address="10.5.0.2", **changes):
    made = {
        "mac": f"52:54:00:00:00:{int(address.rpartition('.')[2]):02x}",
        "network": "front" if folder else "default",
        "address": IPv4Interface(f"{address}/24"),
        "gateway": IPv4Address("10.5.0.1"),
        "nameserver": IPv4Address("10.5.0.254"),
        "folder": folder,
    }
    return Nic(**{**made, **changes})


@pytest.fixture
def network(tmp_path):
    """A network's folder, as a store has it: who gives up root's rights still finds what lies in it."""
    return made(tmp_path, "front")


def made(parent, name):
    folder = parent / name
    folder.mkdir()
    folder.chmod(0o711)
    return folder


class End:
    """One end of a carrier's: frames behind their lengths."""

    def __init__(self, stream):
        self.stream = stream
        self.buffer = b""

    def send(self, frame):
        self.stream.sendall(struct.pack(">I", len(frame)) + frame)

    def receive(self, timeout=PATIENCE):
        """The next frame, or None where none comes in that time."""
        deadline = time.monotonic() + timeout
        while len(self.buffer) < 4 or len(self.buffer) < 4 + struct.unpack_from(">I", self.buffer)[0]:
            self.stream.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.stream.recv(1 << 16)
            except TimeoutError:
                return None
            if not data:
                raise EOFError
            self.buffer += data
        (length,) = struct.unpack_from(">I", self.buffer)
        frame, self.buffer = self.buffer[4 : 4 + length], self.buffer[4 + length :]
        return frame


@contextlib.contextmanager
def carried(interface, others=()):
    """A carrier with both its ends in our hands: the guest's, and what is outside."""
    pairs = [socket.socketpair() for _ in range(2)]
    process = start_carrier(interface, [near.fileno() for near, _ in pairs], others)
    for near, _ in pairs:
        near.close()
    guest, outside = (End(far) for _, far in pairs)
    try:
        yield guest, outside, process
    finally:
        process.kill()
        process.wait()
        for _, far in pairs:
            far.close()


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def packet(interface, to, *, protocol=TCP, port=80, payload=b"", hardware=None):
    """A frame of the guest's to an address, by way of the gateway unless `hardware` says otherwise."""
    body = (
        struct.pack(">HHIIBBHHH", 40000, port, 0, 0, 0x50, SYN, 0, 0, 0)
        if protocol == TCP
        else struct.pack(">HHHH", 40000, port, 8 + len(payload), 0)
    ) + payload
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0)
    header += interface.address.packed[:4] + IPv4Address(to).packed
    by = hardware or b"\x52\x55" + interface.gateway.packed
    return by + mac(interface.mac) + b"\x08\x00" + header + body


def arp(interface, wanted):
    sender = mac(interface.mac)
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + sender + interface.address.packed[:4]
    return b"\xff" * 6 + sender + b"\x08\x06" + body + bytes(6) + IPv4Address(wanted).packed


def question(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\x12\x34\x01\x00\x00\x01" + bytes(6) + labels + b"\x00\x00\x01\x00\x01"


def asked(guest, interface, name):
    """The result code and the addresses that the carrier answers with; None where it leaves it to others."""
    guest.send(packet(interface, interface.nameserver, protocol=UDP, port=53, payload=question(name)))
    frame = guest.receive(SILENCE * 5)
    if frame is None:
        return None
    message = frame[14 + 20 + 8 :]
    count = struct.unpack_from(">H", message, 6)[0]
    return message[3] & 15, [str(IPv4Address(message[len(message) - 16 * n :][12:16])) for n in range(count, 0, -1)]


def own_addresses():
    """Addresses of this host beside loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.77", 9))
        except OSError:
            return []
        return [probe.getsockname()[0]]


def test_what_goes_to_others_passes_and_what_would_reach_the_host_does_not():
    interface = nic()
    with carried(interface) as (guest, outside, _):
        for address in ["169.254.169.254", "10.5.0.1", "127.0.0.1", "0.0.0.0", "10.5.0.77", *own_addresses()]:
            guest.send(packet(interface, address))
            guest.send(packet(interface, address, protocol=UDP))
        allowed = packet(interface, "203.0.113.77")
        guest.send(allowed)
        assert outside.receive() == allowed
        assert outside.receive(SILENCE) is None


def test_frames_from_outside_reach_the_guest_however_many_come_at_once():
    interface = nic()
    frames = [mac(interface.mac) + OUTSIDE + b"\x08\x00" + bytes([n % 251]) * (60 + n) for n in range(1200)]
    with carried(interface) as (guest, outside, _):
        for start in range(0, len(frames), 100):
            for frame in frames[start : start + 100]:
                outside.send(frame)
            assert [guest.receive() for _ in range(100)] == frames[start : start + 100]


def test_a_carrier_ends_when_its_guest_is_gone():
    with carried(nic()) as (guest, _, process):
        guest.stream.close()
        assert process.wait(PATIENCE) == 0


def test_what_is_no_frame_ends_the_carrier_and_not_the_host():
    with carried(nic()) as (guest, _, process):
        guest.stream.sendall(b"\xff" * 4096)
        assert process.wait(PATIENCE) == 0


def test_machines_of_a_network_exchange_frames_and_others_see_none(tmp_path, network):
    first, second = nic(network, "10.5.0.2"), nic(network, "10.5.0.3")
    other = nic(made(tmp_path, "back"), "10.5.0.4")
    with contextlib.ExitStack() as stack:
        one, two, three = (stack.enter_context(carried(interface))[0] for interface in (first, second, other))
        who_has = arp(first, "10.5.0.3")
        one.send(who_has)
        assert two.receive() == who_has
        unicast = packet(first, "10.5.0.3", hardware=mac(second.mac))
        one.send(unicast)
        assert two.receive() == unicast
        answer = packet(second, "10.5.0.2", hardware=mac(first.mac))
        two.send(answer)
        assert one.receive() == answer
        assert three.receive(SILENCE) is None


def test_nobody_takes_another_machines_address(network):
    first, second = nic(network, "10.5.0.2"), nic(network, "10.5.0.3")
    liar = nic(network, "10.5.0.9", mac=first.mac)
    with carried(first) as (one, _, _), carried(second) as (two, _, _):
        one.send(packet(liar, "10.5.0.3", hardware=mac(second.mac)))
        one.send(arp(liar, "10.5.0.3"))
        assert two.receive(SILENCE) is None


def test_a_machine_that_does_not_read_holds_up_no_other(network):
    first, deaf, third = (nic(network, f"10.5.0.{n}") for n in (2, 3, 4))
    with contextlib.ExitStack() as stack:
        one, _, _ = stack.enter_context(carried(first))
        two, _, process = stack.enter_context(carried(deaf))
        three, _, _ = stack.enter_context(carried(third))
        for end, interface in ((two, deaf), (three, third)):
            end.send(arp(interface, "10.5.0.2"))
            assert one.receive() == arp(interface, "10.5.0.2")  # now it is known where it is
        process.send_signal(signal.SIGSTOP)
        for _ in range(400):
            one.send(packet(first, "10.5.0.3", hardware=mac(deaf.mac), payload=bytes(1000)))
        last = packet(first, "10.5.0.4", hardware=mac(third.mac))
        one.send(last)
        assert arp(deaf, "10.5.0.2") == three.receive()
        assert three.receive() == last
        process.send_signal(signal.SIGCONT)


def test_names_of_machines_that_are_there_are_answered_and_others_left_to_the_host(network):
    (network / "hosts").write_text("10.5.0.2 web www\n10.5.0.3 db www\n10.5.0.9 gone\n")
    first, second = nic(network, "10.5.0.2"), nic(network, "10.5.0.3")
    with carried(first) as (guest, outside, _):
        assert asked(guest, first, "DB") == (3, [])
        with carried(second):
            assert asked(guest, first, "db") == (0, ["10.5.0.3"])
            assert asked(guest, first, "www") == (0, ["10.5.0.2", "10.5.0.3"])
        assert asked(guest, first, "www") == (0, ["10.5.0.2"])
        assert asked(guest, first, "gone") == (3, [])
        assert asked(guest, first, "example.org") is None
        assert question("example.org") in outside.receive()


def test_on_an_internal_network_nothing_leaves_and_unknown_names_are_none(network):
    (network / "hosts").write_text("10.5.0.2 web\n")
    interface = nic(network, is_internal=True)
    with carried(interface) as (guest, outside, _):
        guest.send(packet(interface, "203.0.113.77"))
        assert asked(guest, interface, "example.org") == (3, [])
        assert asked(guest, interface, "web") == (0, ["10.5.0.2"])
        assert outside.receive(SILENCE) is None


def test_names_of_a_machines_other_networks_are_known_as_well(tmp_path, network):
    back = made(tmp_path, "back")
    (network / "hosts").write_text("")
    (back / "hosts").write_text("10.5.0.3 db\n")
    first, second = nic(network, "10.5.0.2"), nic(back, "10.5.0.3")
    with carried(first, [first, second]) as (guest, _, _), carried(second):
        assert asked(guest, first, "db") == (0, ["10.5.0.3"])


def test_an_address_that_a_machine_has_is_not_given_to_a_second_carrier(network):
    with carried(nic(network)):
        near, far = socket.socketpair()
        with near, far, pytest.raises(MachineError, match=r"network front: .*in use"):
            start_carrier(nic(network), [near.fileno(), far.fileno()])


def test_what_a_killed_carrier_left_is_no_obstacle(network):
    with carried(nic(network)) as (_, _, process):
        process.kill()
        process.wait()
    assert (network / "10.5.0.2").is_socket()
    with carried(nic(network)) as (_, _, process):
        assert process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="root's rights are to be given up")
def test_a_carrier_of_roots_is_nobody():
    with carried(nic()) as (_, _, process):
        status = Path(f"/proc/{process.pid}/status").read_text()
    assert "Uid:\t65534\t65534\t65534\t65534" in status
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status


def test_the_links_of_a_machine_leave_nothing_open():
    before = {*Path("/proc/self/fd").iterdir()}
    spec = MachineSpec(name="m", architecture="amd64", kernel=Path(), initramfs=Path(), drives=(), nics=(nic(), nic()))
    with Links(spec) as links:
        assert [len(fds) for fds in links.fds] == [2, 2]
        links.started()
    assert all(process.returncode is not None for process in links.carriers)
    assert {*Path("/proc/self/fd").iterdir()} == before


def test_a_carrier_on_the_kernels_bridge_only_answers_for_names():
    words = carrier_argv(Path("/carrier"), nic(Path("/n/front"), tap="fk0", bridge="fkb"), ())
    assert "--serve" in words
    assert not {"--vm", "--outside", "--peers"} & set(words)
