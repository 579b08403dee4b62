"""A process of a guest on this process's own standard streams: input goes in, output comes out, until it ends.

Bytes go as they are to the descriptors that the caller gives. What a signal or a change of the terminal's size means is
told to the guest.
"""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Literal, TypeAlias

from firekiln.errors import UsageError
from firekiln.machine.guest.protocol import PAYLOAD_LIMIT, Frame, FrameType, parse_control
from firekiln.machine.supervision.stream import Stream, failure
from firekiln.machine.supervision.wakeup import ignore, wakeup
from firekiln.values import dataclass

DETACH_KEYS = b"\x10\x11"
"""Ctrl-P, Ctrl-Q."""

_CONTROL = {**{chr(code + 96): code for code in range(1, 27)}, "@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """The process has ended. `error` is empty unless the machine itself went wrong."""

    status: int
    error: str = ""


Outcome: TypeAlias = Over | Literal["detached", "lost"]
"""`detached`: the user typed the keys for that. `lost`: the supervisor went without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Descriptors of ours. `stdin` None: nothing is read. `terminal`: stdin is one, and so is the guest's end."""

    stdin: int | None
    stdout: int | None
    stderr: int | None
    terminal: bool = False
    detach_keys: bytes = DETACH_KEYS


def converse(
    stream: Stream,
    streams: Streams,
    *,
    signals: Collection[int] = (),
    proxy: FrameType = FrameType.SIGNAL,
    started: Callable[[], object] = ignore,
) -> Outcome:
    """Until the process ends, or the user detaches. For the main thread; `signals` are passed on as frames of `proxy`.

    `started` is called once, when the process runs.

    MachineError where it could not be started, with Docker's `exit_status`; BrokenPipeError where nobody reads us.
    """
    return _Dialogue(stream, streams, proxy, started).run(signals)


class _Dialogue:
    def __init__(self, stream: Stream, streams: Streams, proxy: FrameType, started: Callable[[], object]) -> None:
        self._stream = stream
        self._streams = streams
        self._proxy = proxy
        self._started = started
        self._selector = selectors.PollSelector()  # epoll takes no regular files
        self._filter = _DetachFilter(streams.detach_keys if streams.terminal else b"")
        self._outcome: Outcome | None = None
        self._ready = False

    def run(self, signals: Collection[int]) -> Outcome:
        winch = [signal.SIGWINCH] if self._streams.terminal else []
        with ExitStack() as stack:
            stack.enter_context(self._selector)
            woken = stack.enter_context(wakeup([*signals, *winch]))
            self._selector.register(woken, selectors.EVENT_READ, lambda: [*map(self._on_signal, woken.recv(4096))])
            self._selector.register(self._stream, selectors.EVENT_READ, self._on_frames)
            while self._outcome is None:
                self._watch_stdin()
                for key, _ in self._selector.select():
                    if self._outcome is None:
                        key.data()
        return self._outcome

    def _watch_stdin(self) -> None:
        """Read it as far as the guest has room for more, and not before its process runs: until then Ctrl-C is ours."""
        fd = self._streams.stdin
        if fd is None:
            return
        wanted = self._ready and self._stream.stdin_room > 0 and not self._filter.is_over
        if wanted != (fd in self._selector.get_map()):
            if wanted:
                self._selector.register(fd, selectors.EVENT_READ, self._on_stdin)
            else:
                self._selector.unregister(fd)

    def _on_stdin(self) -> None:
        assert self._streams.stdin is not None
        room = min(self._stream.stdin_room, PAYLOAD_LIMIT)
        try:
            data = os.read(self._streams.stdin, max(1, room - len(self._streams.detach_keys)))
        except OSError:  # a terminal that has hung up
            data = b""
        passed = self._filter.take(data)
        if passed:
            self._stream.stdin(passed)
        if self._filter.is_detached:
            self._stream.detach()
            self._outcome = "detached"
        elif not data:
            self._stream.stdin(b"")

    def _on_frames(self) -> None:
        frames = self._stream.receive()
        if frames is None:
            self._outcome = "lost"
            return
        for frame in frames:
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        match frame.type:
            case FrameType.STDOUT:
                _write(self._streams.stdout, frame.payload)
            case FrameType.STDERR:
                _write(self._streams.stderr, frame.payload)
            case FrameType.STARTED:
                if not self._ready:
                    self._ready = True
                    self._started()
                self._resize()
            case FrameType.EXITED:
                fields = parse_control(frame)
                self._outcome = Over(status=int(fields["code"]), error=str(fields.get("error", "")))
            case FrameType.FAILED:
                raise failure(frame)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGWINCH and self._streams.terminal:
            self._resize()
        else:
            self._stream.tell(self._proxy, signal=number)

    def _resize(self) -> None:
        if self._streams.terminal and self._streams.stdin is not None:
            rows, columns = terminal_size(self._streams.stdin)
            self._stream.tell(FrameType.RESIZE, rows=rows, columns=columns)


class _DetachFilter:
    """Passes input on but for the keys by which the user takes his leave."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""
        self.is_detached = False
        self.is_over = False

    def take(self, data: bytes) -> bytes:
        """What is to be passed on; what may be the beginning of the keys waits for more. None is the end."""
        self.is_over = self.is_over or not data
        if not self._keys:
            return data
        passed, self._held = self._held + data, b""
        before, found, _ = passed.partition(self._keys)
        if found:
            self.is_detached = True
            return before
        for length in range(min(len(self._keys) - 1, len(passed)) if data else 0, 0, -1):
            if passed.endswith(self._keys[:length]):
                self._held = passed[-length:]
                return passed[:-length]
        return passed


def terminal_size(fd: int) -> tuple[int, int]:
    """Rows and columns; zeros where it has none."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return size.lines, size.columns


def parse_detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q`, `a,b`: Docker's words. UsageError."""
    made = bytearray()
    for word in text.split(","):
        key = word.removeprefix("ctrl-")
        if word != key and key.lower() in _CONTROL:
            made.append(_CONTROL[key.lower()])
        elif word == key and len(word) == 1 and word.isascii():
            made += word.encode()
        else:
            raise UsageError(f"Invalid escape keys ({text}) provided", hint="such as ctrl-p,ctrl-q")
    return bytes(made)


def _write(fd: int | None, data: bytes) -> None:
    view = memoryview(data if fd is not None else b"")
    while view:
        assert fd is not None
        view = view[os.write(fd, view) :]
