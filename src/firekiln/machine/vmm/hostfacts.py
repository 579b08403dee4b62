"""What was found out about this host by trying, remembered until it boots again.

The file is a cache: lost or damaged, it costs the trials once more.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_T = TypeVar("_T", bool, int, str)


class HostFacts:
    """Facts by key, kept in one JSON file together with the boot id of the kernel for which they hold."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot_id = _BOOT_ID.read_text().strip()

    def get(self, key: str, kind: type[_T]) -> _T | None:
        """The fact of that name, if it was found out since the host booted."""
        value = self._read().get(key)
        return value if type(value) is kind else None

    def put(self, key: str, value: bool | int | str) -> None:
        """Remember a fact. Of two processes that do so at once one may be forgotten. A read-only state is no error."""
        facts = {**self._read(), key: value}
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"boot_id": self._boot_id, "facts": facts}, indent=1) + "\n")
            temporary.replace(self._path)

    def _read(self) -> dict[str, bool | int | str]:
        try:
            data = json.loads(self._path.read_bytes())
            return dict(data["facts"]) if data["boot_id"] == self._boot_id else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
