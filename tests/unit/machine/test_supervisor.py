"""A supervisor's boot and its clients, against a guest of Python that speaks real frames over a socket."""

import json
import selectors
import socket
import subprocess
import threading

import pytest

from firekiln.errors import NoTimerError
from firekiln.machine.guest.protocol import OUTPUT_WINDOW, Decoder, Frame, FrameType
from firekiln.machine.guest.protocol import control as frame_of
from firekiln.machine.supervision import control
from firekiln.machine.supervision.clients import Clients
from firekiln.machine.supervision.ending import End
from firekiln.machine.supervision.log import read_log
from firekiln.machine.supervision.logconfig import LogConfig
from firekiln.machine.supervision.state import Record, State
from firekiln.machine.supervision.stream import Stream
from firekiln.machine.supervision.supervise import _Run
from firekiln.machine.supervision.supervisor import Hooks, Supervisor
from firekiln.machine.vmm.backend import Guest

EXEC = {"do": "exec", "argv": ["a", "b c"], "env": [], "user": None, "cwd": None, "stdin": True, "tty": None}


class FakeVmm:
    """A process that does nothing, and a thread that is its guest: `script` gets the guest's socket and process."""

    def __init__(self, script):
        self._script = script

    def launch(self, _spec):
        host, guest = socket.socketpair()
        process = subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

        def live():
            with guest:
                self._script(guest)
            process.kill()

        threading.Thread(target=live, daemon=True).start()
        return Guest(process=process, console=process.stdout, complaints=process.stderr, channel=host)


class Settings:
    spec = None
    health = None
    health_limit = (0.0, 0)
    restart = ("no", 0)
    log = LogConfig()


def start(guest):
    guest.sendall(frame_of(FrameType.HELLO, 0, protocol=1, oldest=1, uptime_ms=1).encode())
    guest.sendall(frame_of(FrameType.STARTED, 1, pid=2, uid=0, uptime_ms=2).encode())


def hear(guest, decoder, kind):
    """Frames until one of that type has come; that one, and the bytes of STDIN before it."""
    fed = b""
    while True:
        for frame in decoder.feed(guest.recv(1 << 16)):
            if frame.type == FrameType.STDIN:
                fed += frame.payload
            if frame.type == kind:
                return frame, fed


def end(guest, code=0):
    guest.sendall(frame_of(FrameType.EXITED, 1, code=code).encode())
    hear(guest, Decoder(), FrameType.SHUTDOWN)


@pytest.fixture
def boot(tmp_path):
    """Run a guest's script to its end in a thread; a function that returns a function that waits for the End."""
    threads = []

    def begin(script, **hooks):
        ended = []

        def run():
            with selectors.DefaultSelector() as selector:
                options = {"stop_signal": 15, "stop_timeout": 5.0, "stdin": True, "closes_stdin": True}
                with Clients(tmp_path, selector, journal=lambda *_: None, **options) as clients:
                    boot = Supervisor(
                        Settings(), FakeVmm(script), tmp_path, selector=selector, clients=clients, hooks=Hooks(**hooks)
                    )
                    ended.append(boot.run())
                    clients.finish(ended[0].status, FrameType.EXITED, code=ended[0].status, error=ended[0].error)

        thread = threading.Thread(target=run)
        thread.start()
        threads.append(thread)

        def wait():
            thread.join(20)
            return ended[0]

        return wait

    yield begin
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_an_exec_is_relayed_with_its_input_and_its_output_is_granted_as_it_is_taken(boot, tmp_path):
    started = threading.Event()
    words = []

    def guest(channel):
        start(channel)
        decoder = Decoder()
        order, _ = hear(channel, decoder, FrameType.EXEC)
        words.append(json.loads(order.payload)["argv"])
        number = order.process
        channel.sendall(frame_of(FrameType.STARTED, number, pid=9, uid=0, uptime_ms=3).encode())
        channel.sendall(Frame(FrameType.STDOUT, b"x" * 1000, number).encode())
        credit, _ = hear(channel, decoder, FrameType.CREDIT)
        words.append(int.from_bytes(credit.payload, "little"))
        channel.sendall(frame_of(FrameType.EXITED, number, code=4).encode())
        end(channel)

    wait = boot(guest, started=lambda *_: started.set())
    assert started.wait(10)
    stream = Stream.open(tmp_path, EXEC)
    with stream:
        frames = []
        while (more := stream.receive()) is not None:
            frames += more
    assert [frame.type for frame in frames] == [FrameType.STARTED, FrameType.STDOUT, FrameType.EXITED]
    assert json.loads(frames[-1].payload)["code"] == 4
    assert words == [["a", "b c"], 1000]
    assert wait() == End(status=0)


def test_a_guest_that_sends_more_than_it_was_granted_is_ended(boot, tmp_path):
    def guest(channel):
        start(channel)
        order, _ = hear(channel, Decoder(), FrameType.EXEC)
        block = Frame(FrameType.STDOUT, bytes(1 << 16), order.process).encode()
        try:
            for _ in range(4 * OUTPUT_WINDOW >> 16):
                channel.sendall(block)
            channel.recv(1 << 20)
        except OSError:
            return

    started = threading.Event()
    wait = boot(guest, started=lambda *_: started.set())
    assert started.wait(10)
    with Stream.open(tmp_path, EXEC):  # and does not read
        ended = wait()
    assert ended.status == 125
    assert "broke the agent protocol" in ended.error


def test_the_log_has_all_and_a_stop_waits_for_the_end(boot, tmp_path):
    stopped = []

    def guest(channel):
        start(channel)
        channel.sendall(Frame(FrameType.STDOUT, b"one\ntwo", 1).encode())
        order, _ = hear(channel, Decoder(), FrameType.STOP)
        stopped.append(json.loads(order.payload))
        end(channel, 3)

    started = threading.Event()
    wait = boot(guest, started=lambda *_: started.set())
    assert started.wait(10)
    assert control.ask(tmp_path, {"do": "stop", "timeout": 2}) == {"exit_status": 3}
    assert wait() == End(status=3)
    assert stopped == [{"signal": 15, "timeout_ms": 2000}]
    assert [line.text for line in read_log(tmp_path)] == ["one\n", "two"]


def test_a_guest_that_hangs_is_reported_silent_and_does_not_outlive_a_kill(boot, tmp_path, monkeypatch):
    def guest(channel):
        start(channel)
        while channel.recv(1 << 16):  # and says nothing more
            pass

    monkeypatch.setattr(Settings, "health_limit", (0.1, 1))
    started, silent = threading.Event(), threading.Event()
    wait = boot(guest, started=lambda *_: started.set(), silent=silent.set)
    assert started.wait(10)
    assert silent.wait(10)
    assert control.ask(tmp_path, {"do": "signal", "number": 9}, timeout=10) == {}
    assert wait() == End(status=137)


def test_a_paused_machine_refuses_at_once_and_goes_on(boot, tmp_path):
    def guest(channel):
        start(channel)
        hear(channel, Decoder(), FrameType.STOP)
        end(channel, 3)

    started = threading.Event()
    wait = boot(guest, started=lambda *_: started.set())
    assert started.wait(10)
    assert control.ask(tmp_path, {"do": "pause"}, timeout=10) == {}
    assert control.ask(tmp_path, {"do": "stats"}, timeout=10) == {"error": "the machine is paused"}
    with Stream.open(tmp_path, EXEC) as stream:
        (frame,) = stream.receive()
    assert (frame.type, json.loads(frame.payload)["message"]) == (FrameType.FAILED, "the machine is paused")
    assert control.ask(tmp_path, {"do": "stop", "timeout": 5}, timeout=20) == {"exit_status": 3}
    assert wait() == End(status=3)


@pytest.mark.parametrize(("unlucky", "status"), [(2, 3), (99, None)])
def test_a_guest_that_found_no_timer_is_booted_again_a_few_times(tmp_path, unlucky, status):
    boots = []

    def guest(channel):
        boots.append(channel)
        if len(boots) <= unlucky:
            fields = {"stage": "timer", "message": "the kernel found no timer", "errno": 0, "status": 125}
            channel.sendall(frame_of(FrameType.HELLO, 0, protocol=1, oldest=1, uptime_ms=1).encode())
            channel.sendall(frame_of(FrameType.FAILED, 1, **fields).encode())
            hear(channel, Decoder(), FrameType.SHUTDOWN)
        else:
            start(channel)
            end(channel, 3)

    state = State(tmp_path)
    record, lock = state.create(
        Record(id="a" * 64, name="web", image="web", image_digest="", created_ns=1, settings="{}", config="{}")
    )
    lock.release()
    options = {"stop_signal": 15, "stop_timeout": 5.0, "stdin": False, "closes_stdin": True}
    with selectors.DefaultSelector() as selector:
        run = _Run(state, record, Settings(), selector)
        with Clients(state.folder_of(record.id), selector, journal=lambda *_: None, **options) as clients:
            if status is None:
                with pytest.raises(NoTimerError, match="found no timer"):
                    run.run(clients, FakeVmm(guest))
            else:
                assert run.run(clients, FakeVmm(guest)) == End(status=status)
    assert len(boots) == (unlucky + 1 if status is not None else 5)
