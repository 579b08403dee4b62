"""The host's end of the agent protocol, against a guest's end that speaks bytes: well, badly, and with malice."""

import contextlib
import json
import socket
import struct
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firekiln.errors import MachineError
from firekiln.machine.guest.agent import Agent
from firekiln.machine.guest.protocol import (
    OUTPUT_WINDOW,
    PAYLOAD_LIMIT,
    STDIN_WINDOW,
    Decoder,
    Frame,
    FrameType,
    control,
)
from firekiln.machine.guest.reports import (
    Closed,
    Exited,
    Failed,
    Health,
    Hello,
    Log,
    Output,
    Pong,
    Started,
    Stat,
    Stats,
    Top,
    joined,
)

FRAMES = st.builds(
    Frame,
    st.integers(0, 255),
    st.binary(max_size=300),
    st.integers(0, 65535),
)


@pytest.fixture
def pair():
    host, guest = socket.socketpair()
    guest.settimeout(5)
    with Agent(host) as agent, guest:
        yield agent, guest


def said(guest):
    """The frames that the host has sent so far."""
    guest.setblocking(False)
    data = b""
    try:
        while more := guest.recv(1 << 20):
            data += more
    except BlockingIOError:
        pass
    guest.settimeout(5)
    return Decoder().feed(data)


def tell(guest, kind, process=1, **fields):
    guest.sendall(control(kind, process, **fields).encode())


@given(st.lists(FRAMES, max_size=8), st.integers(1, 50))
def test_frames_survive_any_cutting(frames, step):
    data = b"".join(frame.encode() for frame in frames)
    decoder = Decoder()
    got = [frame for i in range(0, len(data), step) for frame in decoder.feed(data[i : i + step])]
    assert got == frames
    assert decoder.pending == 0


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_gives_frames_or_a_machine_error_and_is_never_hoarded(chunks):
    decoder = Decoder()
    with contextlib.suppress(MachineError):
        for chunk in chunks:
            decoder.feed(chunk)
            assert decoder.pending <= PAYLOAD_LIMIT + 8


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.dictionaries(
    st.sampled_from("protocol oldest uptime_ms pid uid code signal oom stage message status errno".split()), JSON
)


@given(
    st.lists(
        st.builds(
            Frame,
            st.sampled_from(list(FrameType)) | st.integers(0, 255),
            FIELDS.map(lambda fields: json.dumps(fields).encode()) | st.binary(max_size=64),
            st.integers(0, 2),
        ),
        max_size=10,
    )
)
def test_whatever_a_guest_says_is_an_event_or_a_machine_error(frames):
    host, guest = socket.socketpair()
    with Agent(host) as agent, guest:
        guest.sendall(b"".join(frame.encode() for frame in frames))
        guest.shutdown(socket.SHUT_WR)
        with contextlib.suppress(MachineError):
            events = []
            while not (events and isinstance(events[-1], Closed)):
                events += agent.wait(5)
        assert 0 <= agent.stdin_room() <= STDIN_WINDOW


def test_a_life_is_told_in_events(pair):
    agent, guest = pair
    tell(guest, FrameType.HELLO, 0, protocol=3, oldest=1, uptime_ms=9, later="field")
    tell(guest, FrameType.STARTED, pid=70, uid=7, uptime_ms=12)
    guest.sendall(Frame(FrameType.STDOUT, b"out", 1).encode() + Frame(FrameType.STDERR, b"err", 1).encode())
    guest.sendall(Frame(0x77, b"a later version's", 1).encode())
    guest.sendall(Frame(FrameType.STDOUT, b"", 1).encode())
    tell(guest, FrameType.LOG, 0, message="a\x1b[31mred")
    tell(guest, FrameType.EXITED, signal=9, oom=True)
    guest.shutdown(socket.SHUT_WR)
    events = []
    while not events or events[-1] != Closed():
        events += agent.wait(5)
    assert events == [
        Hello(protocol=1, uptime_ms=9),
        Started(pid=70, uid=7, uptime_ms=12),
        Output(fd=1, data=b"out"),
        Output(fd=2, data=b"err"),
        Output(fd=1, data=b""),
        Log(message="a\N{REPLACEMENT CHARACTER}[31mred"),
        Exited(code=None, signal=9, oom=True),
        Closed(),
    ]
    assert events[-2].status == 137
    assert agent.wait(5) == []
    assert agent.receive() == []


def test_the_host_answers_hello_with_its_clock_and_the_last_word_with_shutdown(pair):
    agent, guest = pair
    tell(guest, FrameType.HELLO, 0, protocol=1, oldest=1, uptime_ms=9)
    before = time.time_ns()
    agent.receive()
    tell(guest, FrameType.FAILED, stage="exec", errno=2, status=127, message="exec: not found")
    assert agent.receive() == [Failed(stage="exec", message="exec: not found", errno=2, status=127)]
    hello, shutdown = said(guest)
    assert hello.type == FrameType.HELLO
    fields = json.loads(hello.payload)
    assert fields["protocol"] == 1
    assert before <= fields["time_ns"] <= time.time_ns()
    assert shutdown.type == FrameType.SHUTDOWN


def test_orders_reach_the_guest_as_frames(pair):
    agent, guest = pair
    agent.signal(10)
    agent.stop(15, 2500)
    agent.shutdown()
    agent.ping(b"abc")
    agent.close_stdin()
    frames = said(guest)
    assert [frame.type for frame in frames] == [0x14, 0x15, 0x05, 0x02, 0x20]
    assert json.loads(frames[1].payload) == {"signal": 15, "timeout_ms": 2500}
    guest.sendall(Frame(FrameType.PONG, b"abc").encode())
    assert agent.wait(5) == [Pong(payload=b"abc")]


def test_standard_input_is_sent_as_far_as_the_guest_has_room(pair):
    agent, guest = pair
    data = bytes(range(256)) * 300
    assert agent.stdin(data) == STDIN_WINDOW
    assert agent.stdin(data[STDIN_WINDOW:]) == 0
    guest.sendall(Frame(FrameType.CREDIT, struct.pack("<I", 5000), 1).encode())
    assert agent.receive() == []
    assert agent.stdin_room() == 5000
    assert agent.stdin(data[STDIN_WINDOW:]) == 5000
    assert b"".join(frame.payload for frame in said(guest)) == data[: STDIN_WINDOW + 5000]


def test_a_guest_that_grants_more_than_was_sent_is_refused(pair):
    agent, guest = pair
    agent.stdin(b"abc")
    guest.sendall(Frame(FrameType.CREDIT, struct.pack("<I", 4), 1).encode())
    with pytest.raises(MachineError, match="more standard input"):
        agent.receive()


def test_a_guest_of_a_later_protocol_only_is_refused(pair):
    agent, guest = pair
    tell(guest, FrameType.HELLO, 0, protocol=9, oldest=2, uptime_ms=1)
    with pytest.raises(MachineError, match="versions 2 to 9"):
        agent.receive()


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{", b"\xff", b"[" * 5000, b'{"code":256}', b'{"code":true}', b'{"code":"0"}', b"1" * 5000]
)
def test_a_control_frame_that_makes_no_sense_is_refused(pair, payload):
    agent, guest = pair
    guest.sendall(Frame(FrameType.EXITED, payload, 1).encode())
    with pytest.raises(MachineError, match="broke the agent protocol"):
        agent.receive()


def test_a_length_is_believed_only_up_to_the_limit(pair):
    agent, guest = pair
    guest.sendall(struct.pack("<IBBH", PAYLOAD_LIMIT + 1, 0x21, 0, 1))
    with pytest.raises(MachineError, match="65537 bytes is announced"):
        agent.receive()


def test_a_guest_that_never_reads_does_not_fill_the_hosts_memory(pair):
    agent, _ = pair

    def ping_for_ever():
        while True:
            agent.ping(b"x" * 1000)

    with pytest.raises(MachineError, match="does not read"):
        ping_for_ever()


def test_wait_sends_what_the_socket_did_not_take_at_once(pair):
    agent, guest = pair
    while not agent.wants_write:
        agent.ping(b"x" * 10_000)
    read = bytearray()

    def read_all():
        while not read.endswith(b"END"):
            read.extend(guest.recv(1 << 16))
        guest.sendall(Frame(FrameType.PONG, b"done").encode())

    agent.ping(b"END")
    thread = threading.Thread(target=read_all)
    thread.start()
    assert agent.wait(10) == [Pong(payload=b"done")]
    thread.join()


def test_wait_gives_nothing_when_time_is_up(pair):
    agent, _ = pair
    start = time.monotonic()
    assert agent.wait(0.05) == []
    assert time.monotonic() - start < 2


def test_a_vmm_that_dies_shows_as_closed(pair):
    agent, guest = pair
    guest.close()
    agent.signal(9)
    assert agent.wait(5) == [Closed()]


def test_another_process_is_started_fed_heard_and_its_number_free_again(pair):
    agent, guest = pair
    first = agent.exec(["sh", "-c", "x"], env=["A=1"], user="web", cwd="/www", tty=(24, 80), stdin=True)
    second = agent.exec(["true"])
    agent.resize(30, 100, first)
    agent.signal(2, first)
    assert agent.stdin(b"in", first) == 2
    agent.close_stdin(first)
    agent.close_process(second)
    frames = said(guest)
    assert [(frame.type, frame.process) for frame in frames] == [
        (FrameType.EXEC, first),
        (FrameType.EXEC, second),
        (FrameType.RESIZE, first),
        (FrameType.SIGNAL, first),
        (FrameType.STDIN, first),
        (FrameType.STDIN, first),
        (FrameType.CLOSE, second),
    ]
    assert json.loads(frames[0].payload) == {
        "argv": ["sh", "-c", "x"],
        "env": ["A=1"],
        "user": "web",
        "cwd": "/www",
        "tty": {"rows": 24, "columns": 80},
        "stdin": True,
        "privileged": False,
    }
    tell(guest, FrameType.STARTED, first, pid=70, uid=33, uptime_ms=12)
    guest.sendall(Frame(FrameType.STDOUT, b"out", first).encode())
    tell(guest, FrameType.EXITED, first, code=3)
    tell(guest, FrameType.FAILED, second, stage="exec", errno=2, status=127, message="exec: not found")
    guest.sendall(Frame(FrameType.STDOUT, b"late", first).encode())
    events = []
    while len(events) < 4:
        events += agent.wait(5)
    assert events[0] == Started(pid=70, uid=33, uptime_ms=12, process=first)
    assert events[1:3] == [Output(fd=1, data=b"out", process=first), Exited(code=3, process=first)]
    assert isinstance(events[3], Failed)
    agent.signal(9, first)
    assert said(guest) == []
    assert not agent.wait(0.05)


def test_a_guest_may_send_as_much_of_another_process_as_it_was_granted_and_no_more(pair):
    agent, guest = pair
    process = agent.exec(["yes"])
    block = Frame(FrameType.STDOUT, bytes(PAYLOAD_LIMIT), process).encode()
    for _ in range(OUTPUT_WINDOW // PAYLOAD_LIMIT):
        guest.sendall(block)
        while not agent.wait(5):
            pass
    said(guest)
    agent.credit(process, 10)
    (credit,) = said(guest)
    assert (credit.type, credit.process, credit.payload) == (FrameType.CREDIT, process, struct.pack("<I", 10))
    guest.sendall(Frame(FrameType.STDERR, bytes(11), process).encode())
    with pytest.raises(MachineError, match="more output than it was granted"):
        agent.wait(5)


def test_processes_are_so_many_and_their_numbers_come_again(pair):
    agent, guest = pair
    numbers = [agent.stat("/", follow=True) for _ in range(64)]
    assert numbers == list(range(2, 66))
    with pytest.raises(MachineError, match="64 processes"):
        agent.exec(["true"])
    agent.release(5)
    agent._last = 65535
    assert agent.exec(["true"]) == 5
    with pytest.raises(MachineError, match="too long"):
        agent.release(6) or agent.exec(["x" * 20000])
    assert said(guest)


def test_an_end_that_is_not_the_last_is_not_acknowledged(pair):
    agent, guest = pair
    tell(guest, FrameType.EXITED, code=1, again=100)
    tell(guest, FrameType.STARTED, pid=9, uid=0, uptime_ms=1, restarts=1)
    assert agent.wait(5) == [
        Exited(code=1, again_ms=100),
        Started(pid=9, uid=0, uptime_ms=1, restarts=1),
    ]
    assert said(guest) == []


def test_health_figures_and_processes_are_read_bounded_and_made_printable(pair):
    agent, guest = pair
    health = {"status": "unhealthy", "streak": 2, "start_ns": 1, "end_ns": 2, "code": -1, "output": "a\nb\x1b[2J"}
    tell(guest, FrameType.HEALTH, **health)
    (event,) = agent.wait(5)
    assert event == Health(
        status="unhealthy", streak=2, start_ns=1, end_ns=2, code=-1, output="a\nb\N{REPLACEMENT CHARACTER}[2J"
    )
    device = {"name": "eth0", "rx_bytes": 1, "tx_bytes": 2, "rx_packets": 3, "tx_packets": 4}
    memory, cpu = (
        dict.fromkeys("total free available cached".split(), 5),
        dict.fromkeys("user system idle iowait".split(), 6),
    )
    tell(guest, FrameType.STATS, 0, memory=memory, cpu=cpu, network=[device], block=[], pids=7)
    (stats,) = agent.wait(5)
    assert isinstance(stats, Stats)
    assert (stats.memory, stats.cpu["idle"], stats.network[0].out, stats.pids) == (memory, 6, 2, 7)
    process = {
        "pid": 1,
        "ppid": 0,
        "uid": 0,
        "user": None,
        "start_ms": 1,
        "cpu_ms": 2,
        "tty": None,
        "rss": 4,
        "argv": ["\x07"],
    }
    tell(guest, FrameType.TOP, 0, processes=[process], more=True)
    (top,) = agent.wait(5)
    assert isinstance(top, Top)
    assert (top.more, top.processes[0].user, top.processes[0].argv) == (True, "", ("\N{REPLACEMENT CHARACTER}",))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (FrameType.HEALTH, {"status": "fine"}),
        (FrameType.STATS, {"memory": []}),
        (FrameType.STATS, {"memory": dict.fromkeys("total free available cached".split(), -1)}),
        (FrameType.TOP, {"processes": [1]}),
        (FrameType.TOP, {"processes": [{}] * 300}),
        (FrameType.EXITED, {"code": 0, "again": -1}),
    ],
)
def test_a_report_that_makes_no_sense_is_refused(pair, kind, fields):
    agent, guest = pair
    tell(guest, kind, **fields)
    with pytest.raises(MachineError, match="broke the agent protocol"):
        agent.wait(5)


def test_what_is_at_a_path_is_answered_once(pair):
    agent, guest = pair
    number = agent.stat("/etc", follow=False)
    tell(guest, FrameType.STAT, number, name="etc", mode=0o40755, size=4096, mtime_ns=-5, target=None)
    assert agent.wait(5) == [Stat(name="etc", mode=0o40755, size=4096, mtime_ns=-5, target="", process=number)]


def test_neighbouring_pieces_of_one_output_become_one_of_a_frames_length():
    def out(data, fd=1, process=1):
        return Output(fd=fd, data=data, process=process)

    big = bytes(PAYLOAD_LIMIT - 1)
    events = [out(b"a"), out(b"b"), out(b"c", fd=2), out(b"d", process=2), out(b"e", process=2), out(b"")]
    events += [Pong(payload=b""), out(b"f"), out(big), out(b"g"), out(b"h")]
    expected = [out(b"ab"), out(b"c", fd=2), out(b"de", process=2), out(b""), Pong(payload=b"")]
    expected += [out(b"f" + big), out(b"gh")]
    assert list(joined(events)) == expected
    assert list(joined([])) == []
