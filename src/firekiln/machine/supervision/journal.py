"""What has happened to machines: one JSON line each in `<root>/machines/events`, in the shape of Docker's events.

Whoever does something writes it down; a line is one write(2) to a file opened for appending, so that lines of several
processes stay apart. The file is bounded: beyond LIMIT bytes it becomes `events.1`, in place of what that was.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = "events"
LIMIT = 4 << 20
_POLL = 0.1


def note(folder: Path, action: str, *, machine_id: str, name: str, image: str, **attributes: str) -> None:
    """Write down that something was done to a machine. A journal that can't be written to stops nobody."""
    now = time.time_ns()
    event = {
        "status": action,
        "id": machine_id,
        "from": image,
        "Type": "container",
        "Action": action,
        "Actor": {"ID": machine_id, "Attributes": {**attributes, "image": image, "name": name}},
        "scope": "local",
        "time": now // 1_000_000_000,
        "timeNano": now,
    }
    path = folder / NAME
    with suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(event, ensure_ascii=True).encode() + b"\n")
            if os.fstat(fd).st_size > LIMIT:
                path.replace(path.with_name(f"{NAME}.1"))
        finally:
            os.close(fd)


def read_events(
    folder: Path, *, since_ns: int = 0, until_ns: int | None = None, follow: Callable[[], bool] = lambda: False
) -> Iterator[Mapping[str, Any]]:
    """The events from `since_ns` to `until_ns`, oldest first; then those to come, as long as `follow()` is true."""
    position, inode = 0, 0
    for event in _read_file(folder / f"{NAME}.1"):
        if _is_within(event, since_ns, until_ns):
            yield event
    while True:
        going_on = follow() and (until_ns is None or time.time_ns() < until_ns)
        with suppress(FileNotFoundError), (folder / NAME).open("rb") as file:
            found = os.fstat(file.fileno()).st_ino
            position, inode = (position, inode) if found == inode else (0, found)
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                position += len(line)
                event = _event(line)
                if event and _is_within(event, since_ns, until_ns):
                    yield event
        if not going_on:
            return
        time.sleep(_POLL)


def _read_file(path: Path) -> Iterator[Mapping[str, Any]]:
    with suppress(FileNotFoundError):
        yield from filter(None, map(_event, path.read_bytes().splitlines()))


def _event(line: bytes) -> Mapping[str, Any]:
    """An empty one of a line that a full disk cut short."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) and isinstance(event.get("timeNano"), int) else {}


def _is_within(event: Mapping[str, Any], since_ns: int, until_ns: int | None) -> bool:
    when: int = event["timeNano"]
    return since_ns <= when and (until_ns is None or when <= until_ns)
