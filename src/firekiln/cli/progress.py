"""A build's progress on standard error: BuildKit's plain format, a live view on a terminal, JSON, or nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import time
from typing import Final, Protocol, TextIO, assert_never

from firekiln.build.events import (
    Cached,
    Canceled,
    Completed,
    Event,
    Failed,
    Output,
    Started,
    Status,
    Task,
    Warned,
)
from firekiln.dockerfile.text import visible

_CONTROL: Final = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
"""Control characters but tabs, and escape sequences but those that set colours."""

_STATUS_SECONDS: Final = 5.0
"""How often plain progress speaks of a part that is under way."""

MODES = ("auto", "plain", "tty", "quiet", "rawjson")


class Display(Protocol):
    """A view of a build. `close` ends it, however the build ended."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


def display(mode: str, stream: TextIO) -> Display:
    """The view that `mode` (one of MODES) names; `auto` is BUILDKIT_PROGRESS's, else as `stream` is."""
    if mode == "auto":
        mode = os.environ.get("BUILDKIT_PROGRESS", "auto")
    if mode not in MODES or mode == "auto":
        mode = "tty" if stream.isatty() and os.environ.get("TERM") != "dumb" else "plain"
    match mode:
        case "tty":
            from firekiln.cli.live import Live  # noqa: PLC0415 - scripts have no terminal

            return Live(stream)
        case "quiet":
            return Quiet()
        case "rawjson":
            return RawJson(stream)
        case _:
            return Plain(stream)


class Quiet:
    def __call__(self, event: Event) -> None:
        """Nothing is shown."""

    def close(self) -> None:
        """Nothing was."""


class Plain:
    """`#5 [builder 2/4] RUN make`, `#5 0.123 output`, `#5 DONE 1.2s`; numbers in the order of appearance."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._numbers: dict[Task, int] = {}
        self._started: dict[Task, float] = {}
        self._partial: dict[tuple[Task, int], bytes] = {}
        self._said: dict[tuple[Task, str], float] = {}
        self._last: Task | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned):
            self._write(warning_line(event))
            return
        task = event.task
        if isinstance(event, Started):
            self._started[task] = event.at
        if isinstance(event, Status) and not self._is_due(event):
            return
        number = self._head(task)
        for line in self._lines(event):
            self._write(f"#{number} {line}")

    def close(self) -> None:
        self._stream.flush()

    def _lines(self, event: Event) -> list[str]:
        lines = self._rest(event) if isinstance(event, Completed | Failed | Canceled) else []
        match event:
            case Cached():
                lines.append("CACHED")
            case Completed():
                lines.append(f"DONE {self._elapsed(event):.1f}s")
            case Failed(message=message):
                lines.append(f"ERROR: {visible(message)}")
            case Canceled():
                lines.append("CANCELED")
            case Output():
                lines += self._output(event)
            case Status(name=name, done=done):
                lines.append(f"{visible(name)}{amount(event)}{' done' if done else ''}")
            case Started() | Warned():
                pass
            case _:
                assert_never(event)
        return lines

    def _is_due(self, event: Status) -> bool:
        """Whether to speak of a part of a task: at its end, and every few seconds until then."""
        key = (event.task, event.name)
        since = event.at - self._said.setdefault(key, self._started.get(event.task, event.at))
        if event.done or since >= _STATUS_SECONDS:
            self._said[key] = event.at
            return True
        return False

    def _head(self, task: Task) -> int:
        """The task's number; its name where another one spoke last."""
        if self._last is not task:
            if self._last is not None:
                self._write("")
            number = self._numbers.setdefault(task, len(self._numbers) + 1)
            self._write(f"#{number} {visible(task.name)}")
            self._last = task
        return self._numbers[task]

    def _output(self, event: Output) -> list[str]:
        key = (event.task, event.fd)
        *lines, rest = (self._partial.pop(key, b"") + event.data).split(b"\n")
        if rest:
            self._partial[key] = rest
        return [f"{self._elapsed(event):.3f} {shown(line)}" for line in lines]

    def _rest(self, event: Completed | Failed | Canceled) -> list[str]:
        """Last lines without an end."""
        parts = [self._partial.pop((event.task, fd), b"") for fd in (1, 2)]
        return [f"{self._elapsed(event):.3f} {shown(part)}" for part in parts if part]

    def _elapsed(self, event: Completed | Failed | Canceled | Output) -> float:
        return max(0.0, event.at - self._started.get(event.task, event.at))

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class RawJson:
    """One JSON object a line, in the words of BuildKit's SolveStatus."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started: dict[tuple[Task, str], str] = {}
        """When a task, or the part of it that is named, was first heard of."""

    def __call__(self, event: Event) -> None:
        self._stream.write(json.dumps(self._document(event), ensure_ascii=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()

    def _document(self, event: Event) -> dict[str, object]:
        if isinstance(event, Warned):
            return {"warnings": [_warning(event)]}
        vertex, at = _digest(event.task), _rfc3339(event.at)
        if isinstance(event, Output):
            data = base64.b64encode(event.data).decode()
            return {"logs": [{"vertex": vertex, "stream": event.fd, "data": data, "timestamp": at}]}
        if isinstance(event, Status):
            return {"statuses": [self._status(event, vertex, at)]}
        return {"vertexes": [self._vertex(event, vertex, at)]}

    def _vertex(
        self, event: Started | Cached | Completed | Failed | Canceled, vertex: str, at: str
    ) -> dict[str, object]:
        started = self._started.setdefault((event.task, ""), at)
        made: dict[str, object] = {"digest": vertex, "name": event.task.name, "started": started}
        if event.task.inputs:
            made["inputs"] = [_digest(task) for task in event.task.inputs]
        if not isinstance(event, Started):
            made["completed"] = at
        if isinstance(event, Cached):
            made["cached"] = True
        if isinstance(event, Failed):
            made["error"] = event.message
        if isinstance(event, Canceled):
            made["error"] = "context canceled"
        return made

    def _status(self, event: Status, vertex: str, at: str) -> dict[str, object]:
        made: dict[str, object] = {"id": event.name, "vertex": vertex, "timestamp": at}
        made |= {"current": event.current, "total": event.total}
        made["started"] = self._started.setdefault((event.task, event.name), at)
        if event.done:
            made["completed"] = at
        return made


def _digest(task: Task) -> str:
    """What names a vertex in the stream; digests of what it does are known to the builder alone, and later."""
    return f"sha256:{hashlib.sha256(f'{task.id} {task.name}'.encode(errors='surrogateescape')).hexdigest()}"


def _warning(event: Warned) -> dict[str, object]:
    made: dict[str, object] = {"level": 1, "short": base64.b64encode(warning_line(event).encode()).decode()}
    if event.location is not None:
        lines = {"start": {"line": event.location.start}, "end": {"line": event.location.end}}
        made |= {"range": [lines], "sourceInfo": {"filename": event.location.file}}
    return made


def warning_line(event: Warned) -> str:
    place = f" ({event.location})" if event.location else ""
    return visible(f"WARN: {event.rule + ': ' if event.rule else ''}{event.message}{place}")


def subscriber(mode: str) -> Display:
    """The view on standard error."""
    return display(mode, sys.stderr)


def shown(line: bytes) -> str:
    """A line of a step's output; what would command the terminal is taken out, but for colours."""
    text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
    return _CONTROL.sub("", text)


def amount(status: Status) -> str:
    """` 1.20MB / 3.40MB`: how far a part is, as far as it can be said."""
    if not status.current and not status.total:
        return ""
    return f" {human_bytes(status.current)}" + (
        f" / {human_bytes(status.total)}" if status.total and not status.done else ""
    )


def human_bytes(count: int) -> str:
    """`12.30MB`, as BuildKit's progress has it."""
    size, units = float(count), ["B", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.2f}{units[0]}" if units[0] != "B" else f"{count}B"


def _rfc3339(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1e9):09d}Z"
