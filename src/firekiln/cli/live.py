"""A build on a terminal: what is finished scrolls away, below it stands what runs, drawn anew ten times a second.

[+] Building 12.3s (4/9)
 => CACHED [build 1/4] FROM docker.io/library/debian:bookworm                        scrolled away
 => [build 2/4] RUN make                                                     5.2s    running
 => => # cc -c main.c                                                                its last lines
 => => downloading 12.30MB / 40.00MB [#######.................]                      its parts
"""

from __future__ import annotations

import os
import re
import threading
import time
import unicodedata
from collections.abc import Iterator
from typing import Final, TextIO, assert_never

from firekiln.build.events import Cached, Canceled, Completed, Event, Failed, Output, Started, Status, Task, Warned
from firekiln.cli.progress import amount, human_bytes, shown, warning_line

_TAIL: Final = 4
_FAILED_TAIL: Final = 20
_INTERVAL: Final = 0.1
_BAR: Final = 24
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_MARGIN: Final = 2
"""Lines of the terminal that stay free: the heading and the cursor's own."""


class _Row:
    """A task that runs."""

    def __init__(self, task: Task, started: float) -> None:
        self.task = task
        self.started = started
        self.tail: list[str] = []
        self.rest: dict[int, bytes] = {}
        self.parts: dict[str, Status] = {}

    def take(self, output: Output) -> None:
        """Keep the last lines; one that has no end yet is the last."""
        *lines, rest = (self.rest.pop(output.fd, b"") + output.data).split(b"\n")
        self.rest[output.fd] = rest[-1000:]
        self.tail = [*self.tail, *filter(None, map(_text, lines))][-_FAILED_TAIL:]

    def last(self, count: int) -> list[str]:
        unfinished = filter(None, map(_text, self.rest.values()))
        return [*self.tail, *unfinished][-count:] if count > 0 else []


class Live:
    """The view. Its lines never wrap, so that it knows how many to take back; `NO_COLOR` takes away the colours."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = not os.environ.get("NO_COLOR")
        self._guard = threading.Lock()
        self._running: dict[Task, _Row] = {}
        self._ended: set[Task] = set()
        self._began: float | None = None
        self._done: list[str] = []
        self._drawn: list[int] = []
        """The widths of the lines that are to be taken back: a narrower terminal has broken them."""
        self._closed = threading.Event()
        self._ticker: threading.Thread | None = None

    def __call__(self, event: Event) -> None:
        with self._guard:
            if self._ticker is None:
                self._ticker = threading.Thread(target=self._tick, name="firekiln-progress", daemon=True)
                self._ticker.start()
            self._note(event)

    def close(self) -> None:
        self._closed.set()
        if self._ticker is not None:
            self._ticker.join()
        with self._guard:
            self._running.clear()
            self._draw()

    def _tick(self) -> None:
        """Draw while nothing happens too: the seconds go on."""
        while not self._closed.wait(_INTERVAL):
            with self._guard:
                self._draw()

    def _note(self, event: Event) -> None:
        if isinstance(event, Warned):
            self._done.append(self._paint("33", warning_line(event)))
            return
        task = event.task
        self._began = event.at if self._began is None else self._began
        match event:
            case Started():
                self._running[task] = _Row(task, event.at)
            case Output():
                if task in self._running:
                    self._running[task].take(event)
            case Status():
                if task in self._running:
                    self._running[task].parts[event.name] = event
            case Cached() | Completed() | Failed() | Canceled():
                self._ended.add(task)
                self._done += self._finished(event, self._running.pop(task, _Row(task, event.at)))
            case _:
                assert_never(event)

    def _finished(self, event: Cached | Completed | Failed | Canceled, row: _Row) -> Iterator[str]:
        name = _line(row.task.name)
        match event:
            case Cached():
                yield self._paint("34", f" => CACHED {name}")
            case Completed():
                size = f", {human_bytes(event.size)}" if event.size else ""
                yield self._paint("34", f" => {name}") + f" {event.at - row.started:.1f}s{size}"
            case Failed():
                yield self._paint("31", f" => ERROR {name}: {_line(event.message)}")
                yield from (f" => # {line}" for line in row.last(_FAILED_TAIL))
            case Canceled():
                yield self._paint("33", f" => CANCELED {name}")
            case _:
                assert_never(event)

    def _draw(self) -> None:
        """Take back what runs, say what has finished, and what runs now."""
        columns, lines = _size(self._stream)
        height = sum(max(1, -(-width // columns)) for width in self._drawn)
        rows = list(self._rows(columns, lines))
        if not (rows or self._done or self._drawn):
            return
        erase = f"\x1b[{min(height, lines)}F" if height else ""
        text = "".join(f"{line}\n" for line in (*self._done, *rows))
        try:
            self._stream.write(f"{erase}\x1b[J{text}")
            self._stream.flush()
        except OSError:  # the terminal is gone; whoever writes the build's result will hear of it
            self._closed.set()
        self._done.clear()
        self._drawn = [_cells(row) for row in rows]

    def _rows(self, columns: int, lines: int) -> Iterator[str]:
        """What runs, stage by stage, none of it wider or all of it higher than the terminal."""
        if not self._running:
            return
        now = time.time()
        seen = len(self._ended) + len(self._running)
        yield _cut(f"[+] Building {now - (self._began or now):.1f}s ({len(self._ended)}/{seen})", columns - 1)
        free = lines - _MARGIN
        stages = list(dict.fromkeys(row.task.stage for row in self._running.values()))
        running = sorted(self._running.values(), key=lambda row: (stages.index(row.task.stage), row.task.id))[:free]
        for number, row in enumerate(running):
            share = (free - len(running)) // (len(running) - number)
            details = [*map(_part, row.parts.values())][-share:] if share > 0 else []
            details += (f" => => # {line}" for line in row.last(min(_TAIL, share - len(details))))
            free -= len(details)
            yield _spread(f" => {_line(row.task.name)}", f"{now - row.started:.1f}s", columns - 1)
            yield from (_cut(line, columns - 1) for line in details)

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text


def _size(stream: TextIO) -> tuple[int, int]:
    """Columns and lines of the terminal that the stream is, or a usual one's."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except OSError:
        columns, lines = 0, 0
    return columns or 80, max(lines or 24, _MARGIN + 1)


def _part(status: Status) -> str:
    bar = ""
    if status.total and not status.done:
        filled = min(_BAR, status.current * _BAR // status.total)
        bar = f" [{'#' * filled}{'.' * (_BAR - filled)}]"
    return f" => => {_line(status.name)}{amount(status)}{bar}{' done' if status.done else ''}"


def _line(text: str) -> str:
    """Text whose width is known: U+FFFD for what a terminal may show as nothing, or as anything."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if character.isprintable() else "\ufffd" for character in text.expandtabs())


def _text(line: bytes) -> str:
    """A line of output without colours, each character of which has its place."""
    return _line(_COLOUR.sub("", shown(line)))


def _spread(left: str, right: str, width: int) -> str:
    """Both sides of a line, the left one cut to fit."""
    room = width - len(right) - 1
    if room < len(right):
        return _cut(left, width)
    left = _cut(left, room)
    return left + " " * (room - _cells(left)) + f" {right}"


def _cut(text: str, width: int) -> str:
    if text.isascii():
        return text[: max(0, width)]
    while _cells(text) > width:
        text = text[:-1]
    return text


def _cells(text: str) -> int:
    """Columns that a terminal needs for it."""
    if text.isascii():
        return len(text)
    return sum(_CELLS.get(unicodedata.east_asian_width(c), 1) for c in text if not unicodedata.combining(c))


_CELLS: Final = {"W": 2, "F": 2}
