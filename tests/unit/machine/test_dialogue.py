"""A terminal's keys and a process's streams, against a supervisor's end that speaks frames."""

import os
import socket

import pytest

from firekiln.errors import MachineError, UsageError
from firekiln.machine.guest.protocol import Decoder, Frame, FrameType, control
from firekiln.machine.supervision.dialogue import DETACH_KEYS, Over, Streams, _DetachFilter, converse, parse_detach_keys
from firekiln.machine.supervision.stream import Stream


@pytest.mark.parametrize(
    ("text", "keys"), [("ctrl-p,ctrl-q", DETACH_KEYS), ("ctrl-@", b"\0"), ("a,ctrl-[", b"a\x1b"), ("x", b"x")]
)
def test_detach_keys_are_dockers(text, keys):
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["", "ctrl-", "ctrl-1", "ab", "ctrl-p,"])
def test_other_detach_keys_are_refused(text):
    with pytest.raises(UsageError, match="Invalid escape keys"):
        parse_detach_keys(text)


@pytest.mark.parametrize(
    ("typed", "passed", "detached"),
    [
        ([b"abc"], b"abc", False),
        ([b"a\x10\x11b"], b"a", True),
        ([b"a\x10", b"\x11"], b"a", True),
        ([b"a\x10", b"b"], b"a\x10b", False),
        ([b"\x10", b"\x10", b"\x11"], b"\x10", True),
        ([b"\x10", b""], b"\x10", False),
    ],
)
def test_what_may_be_the_keys_is_held_back_until_it_is_known(typed, passed, detached):
    keys = _DetachFilter(DETACH_KEYS)
    assert b"".join(map(keys.take, typed)) == passed
    assert keys.is_detached == detached


@pytest.fixture
def pipes():
    ends = [os.pipe() for _ in range(3)]
    yield ends
    for end in ends:
        for fd in end:
            os.close(fd)


def talk(pipes, *frames):
    """The outcome, and what the supervisor heard, when it says `frames`."""
    ours, theirs = socket.socketpair()
    with Stream(ours) as stream, theirs:
        theirs.sendall(b"".join(frame.encode() for frame in frames))
        theirs.shutdown(socket.SHUT_WR)
        outcome = converse(stream, Streams(stdin=pipes[0][0], stdout=pipes[1][1], stderr=pipes[2][1]))
        theirs.setblocking(False)
        try:
            heard = Decoder().feed(theirs.recv(1 << 16))
        except BlockingIOError:
            heard = []
    return outcome, heard


def test_outputs_are_kept_apart_and_the_status_is_the_processs(pipes):
    outcome, _ = talk(
        pipes,
        control(FrameType.STARTED),
        Frame(FrameType.STDOUT, b"out"),
        Frame(FrameType.STDERR, b"err"),
        control(FrameType.EXITED, code=7, error="the VMM was killed"),
    )
    assert outcome == Over(status=7, error="the VMM was killed")
    assert (os.read(pipes[1][0], 10), os.read(pipes[2][0], 10)) == (b"out", b"err")


def test_a_start_that_failed_has_dockers_status_and_a_lost_supervisor_is_told(pipes):
    with pytest.raises(MachineError, match="no such program") as caught:
        talk(pipes, control(FrameType.FAILED, message="no such program", hint=None, status=127))
    assert caught.value.exit_status == 127
    os.write(pipes[0][1], b"typed too early")
    assert talk(pipes) == ("lost", [])
