"""How a machine ended, where its database could not be told: room for that is kept in the machine's folder.

A disk that has filled up takes no new byte, but the bytes of a file that is there can be overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = "end.json"
_ROOM = 4096
_LONGEST_ERROR = 1024


def reserve(folder: Path) -> None:
    """Keep room for a last word, and forget that of an earlier run. OSError where the disk is full already."""
    (folder / NAME).write_bytes(b" " * _ROOM)


def leave(folder: Path, changes: Mapping[str, Any]) -> None:
    """Put down what the machine's row in the database should say."""
    short = {key: value[:_LONGEST_ERROR] if isinstance(value, str) else value for key, value in changes.items()}
    with suppress(OSError), (folder / NAME).open("r+b") as file:
        file.write(json.dumps(short).encode()[:_ROOM])


def found(folder: Path) -> dict[str, Any] | None:
    """What was put down; None where nothing was."""
    with suppress(OSError, ValueError):
        changes = json.loads((folder / NAME).read_bytes())
        return changes if isinstance(changes, dict) else None
    return None
