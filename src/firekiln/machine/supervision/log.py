r"""A machine's log: what its process wrote, in the form of Docker's `json-file` driver, bounded by rotation.

Each line of the file is a JSON object `{"log": "text\n", "stream": "stdout", "time": "RFC 3339"}`. A line of output
longer than 16 KiB is cut into several, of which only the last ends with a newline.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from firekiln.machine.supervision.logconfig import LogConfig

Stream = Literal["stdout", "stderr"]
NAME = "log.json"
_LINE_LIMIT = 16 << 10
_RARE = bytes({*range(32), 127} - {*b"\t\n\r"})
_ESCAPES = ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\t", b"\\t"), (b"\r", b"\\r"))
_POLL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of output, with its newline if it has one. `time` is RFC 3339 with nanoseconds, in UTC."""

    stream: Stream
    text: str
    time: str


class LogWriter:
    """Appends to `<folder>/log.json`; what was there becomes `log.json.1`, `.2` when it grows beyond what it may have.

    Bytes that are no UTF-8 become U+FFFD. Not safe for several writers.
    """

    def __init__(self, folder: Path, config: LogConfig) -> None:
        self._path = folder / NAME
        self._config = config
        self._partial: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        self._file = self._open()

    def write(self, stream: Stream, data: bytes) -> None:
        """Record output; the beginning of a line waits for its end. OSError where the disk is full."""
        whole, newline, rest = (self._partial[stream] + data).rpartition(b"\n")
        now = timestamp(time.time_ns())
        entries = [_entries(stream, whole + newline, now)] if newline else []
        while len(rest) >= _LINE_LIMIT:
            entries.append(_entry(stream, rest[:_LINE_LIMIT], now))
            rest = rest[_LINE_LIMIT:]
        self._partial[stream] = rest
        if entries:
            self._file.write(b"".join(entries))
            self._file.flush()
            if self._file.tell() > self._config.max_size:
                self._rotate()

    def close(self) -> None:
        """Write what waits for the end of its line, and close. Closing twice is no error."""
        now = timestamp(time.time_ns())
        try:
            if not self._file.closed:
                self._file.write(b"".join(_entry(stream, rest, now) for stream, rest in self._partial.items() if rest))
        finally:
            self._partial = {"stdout": b"", "stderr": b""}
            self._file.close()

    def _open(self) -> BinaryIO:
        return open(self._path, "ab", opener=lambda path, flags: os.open(path, flags, 0o600))

    def _rotate(self) -> None:
        self._file.close()
        if self._config.max_files == 1:
            self._path.unlink()
        for number in range(self._config.max_files - 1, 0, -1):
            older = _rotated(self._path, number - 1)
            if older.exists():
                older.replace(_rotated(self._path, number))
        self._file = self._open()


def read_log(folder: Path, *, tail: int | None = None, follow: Callable[[], bool] | None = None) -> Iterator[Line]:
    """The log's lines in order, of those that are there the last `tail`.

    With `follow` it goes on with what is written from then on, as long as `follow()` is true.
    """
    with closing(_Reader(folder / NAME)) as reader:
        yield from deque(reader.read(), maxlen=tail)
        while follow is not None:
            going_on = follow()  # asked first: what was written before the end must still be read
            yield from reader.read()
            if not going_on:
                return
            time.sleep(_POLL)


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nanoseconds, as Docker writes times; its zero for 0."""
    if nanoseconds == 0:
        return "0001-01-01T00:00:00Z"
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09}Z"


class _Reader:
    """Reads the log on from where it stopped. It holds the file that it has come to: no rotation loses a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._position = 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self) -> Iterator[Line]:
        newer = self._newer()  # looked for first: where there are some, nothing more is written to the one that is held
        try:
            yield from self._lines()
            while newer:
                self.close()
                self._file, self._position = newer.pop(0), 0
                yield from self._lines()
        finally:
            for file in newer:
                file.close()

    def _newer(self) -> list[BinaryIO]:
        """The files behind the one that is held, the oldest first, open.

        They are opened in the other direction: what is rotated meanwhile is met twice, and not missed.
        """
        held = os.fstat(self._file.fileno()).st_ino if self._file is not None else 0
        made: dict[int, BinaryIO] = {}
        number = gaps = 0
        while gaps < 2:  # a rotation leaves one gap after the other, and never two at once
            try:
                file = _rotated(self._path, number).open("rb")
            except FileNotFoundError:
                gaps += 1
            else:
                inode = os.fstat(file.fileno()).st_ino
                if inode == held or inode in made:
                    file.close()
                else:
                    made[inode] = file
                if inode == held:
                    break
            number += 1
        return [*reversed(made.values())]

    def _lines(self) -> Iterator[Line]:
        if self._file is None:
            return
        self._file.seek(self._position)
        for line in self._file:
            if not line.endswith(b"\n"):
                return  # being written
            self._position += len(line)
            with suppress(ValueError):  # a full disk has cut it
                entry = json.loads(line)
                yield Line(stream=entry["stream"], text=entry["log"], time=entry["time"])


def _rotated(path: Path, number: int) -> Path:
    return path if number == 0 else path.with_name(f"{path.name}.{number}")


def _entries(stream: Stream, text: bytes, now: str) -> bytes:
    """The entries of some whole lines. Escaping them all at once is forty times as fast as one after the other."""
    text = text.decode("utf-8", "replace").encode()
    rare = len(text.translate(None, _RARE)) < len(text)  # looks at them four times as fast as an expression does
    if rare or _has_long_line(text):
        lines = text.split(b"\n")[:-1]
        return b"".join(_entry(stream, part, now) for line in lines for part in _parts(line + b"\n"))
    end = b'\\n", "stream": "%s", "time": "%s"}\n' % (stream.encode(), now.encode())
    for character, escaped in _ESCAPES:
        text = text.replace(character, escaped)
    return b'{"log": "' + text[:-1].replace(b"\n", end + b'{"log": "') + end


def _has_long_line(text: bytes) -> bool:
    position = 0
    while len(text) - position > _LINE_LIMIT:
        newline = text.rfind(b"\n", position, position + _LINE_LIMIT)
        if newline < 0:
            return True
        position = newline + 1
    return False


def _parts(line: bytes) -> Iterator[bytes]:
    for start in range(0, len(line), _LINE_LIMIT):
        yield line[start : start + _LINE_LIMIT]


def _entry(stream: Stream, text: bytes, now: str) -> bytes:
    entry = {"log": text.decode("utf-8", "replace"), "stream": stream, "time": now}
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
