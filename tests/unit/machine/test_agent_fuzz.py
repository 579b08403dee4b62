"""Whatever a guest sends, the host's end answers with events or a MachineError, and holds little.

The corpus is a life that a guest may really have; its bytes are changed. Ten seconds of that are enough here; `--all`
takes ten minutes.
"""

import contextlib
import random
import socket
import time

import pytest

from firekiln.errors import MachineError
from firekiln.machine.guest.agent import Agent
from firekiln.machine.guest.protocol import OUTPUT_WINDOW, PAYLOAD_LIMIT, STDIN_WINDOW, Frame, FrameType, control

_NUMBERS = (0, 1, -1, 255, 256, 65535, 1 << 31, 1 << 63, 1 << 64, 10**30)


def life():
    """The frames of a guest that does everything once."""
    device = {"name": "vda", "read": 1, "written": 2}
    memory = dict.fromkeys("total free available cached".split(), 9)
    cpu = dict.fromkeys("user system idle iowait".split(), 9)
    process = {
        "pid": 2,
        "ppid": 1,
        "uid": 0,
        "user": "root",
        "start_ms": 1,
        "cpu_ms": 2,
        "tty": None,
        "rss": 4,
        "argv": ["a"],
    }
    return [
        control(FrameType.HELLO, 0, protocol=1, oldest=1, uptime_ms=5),
        control(FrameType.STARTED, 1, pid=7, uid=0, uptime_ms=9),
        Frame(FrameType.STDOUT, b"out\n" * 20, 1),
        Frame(FrameType.CREDIT, (100).to_bytes(4, "little"), 1),
        control(FrameType.STARTED, 2, pid=8, uid=0, uptime_ms=9),
        Frame(FrameType.STDERR, b"err\n", 2),
        control(FrameType.HEALTH, 1, status="healthy", streak=0, start_ns=1, end_ns=2, code=0, output="ok"),
        control(FrameType.STAT, 3, name="x", mode=0o100644, size=1, mtime_ns=1, target=None),
        control(FrameType.STATS, 0, memory=memory, cpu=cpu, network=[], block=[device], pids=3),
        control(FrameType.TOP, 0, processes=[process], more=False),
        Frame(FrameType.PING, b"x"),
        control(FrameType.LOG, 0, message="remark"),
        control(FrameType.EXITED, 2, code=1, oom=False),
        control(FrameType.EXITED, 1, signal=9, again=100),
        control(FrameType.FAILED, 1, stage="exec", errno=2, status=127, message="no"),
    ]


def changed(frames, chance):
    """The bytes of some of these frames, changed in one way or another."""
    data = bytearray(b"".join(frame.encode() for frame in chance.sample(frames, chance.randint(1, len(frames)))))
    for _ in range(chance.randint(0, 6)):
        place = chance.randrange(len(data) or 1)
        match chance.randrange(5):
            case 0:
                data[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[place : place + chance.randint(1, 40)]
            case 2:
                data[place:place] = data[place : place + chance.randint(1, 200)]
            case 3:
                data[place:place] = str(chance.choice(_NUMBERS)).encode()
            case 4:
                data[place:place] = chance.choice(
                    [b"[" * 200, b'"', b"\0", b"\xff", b"\\ud800", b'{"a":', b"null", b"\x1b["]
                )
    return bytes(data)


def try_once(frames, chance):
    host, guest = socket.socketpair()
    with Agent(host) as agent, guest:
        process = agent.exec(["true"], stdin=True)
        agent.stat("/", follow=True)
        agent.stdin(b"x" * 100)
        agent.stdin(b"x" * 100, process)
        guest.sendall(changed(frames, chance))
        guest.shutdown(socket.SHUT_WR)
        with contextlib.suppress(MachineError):
            while not agent.is_closed:
                agent.receive()
        assert agent._decoder.pending <= PAYLOAD_LIMIT + 8
        assert len(agent._processes) <= 3
        for each in agent._processes.values():
            assert 0 <= each.stdin_room <= STDIN_WINDOW
            assert each.output_room <= OUTPUT_WINDOW


def fuzz(seconds):
    seed = random.SystemRandom().randrange(1 << 32)
    chance, frames, tries = random.Random(seed), life(), 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            try_once(frames, chance)
        except Exception as error:
            raise AssertionError(f"seed {seed}, try {tries}") from error
        tries += 1
    assert tries > 100


def test_a_guest_gone_mad_does_the_host_no_harm():
    fuzz(10)


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_guest_that_is_mad_for_ten_minutes_does_the_host_no_harm():
    fuzz(600)
