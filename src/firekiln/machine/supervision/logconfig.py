"""Where a machine's output is kept, in the words of Docker's `--log-driver` and `--log-opt`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from firekiln.errors import UsageError
from firekiln.oci.config import Json
from firekiln.values import dataclass

DEFAULT_DRIVER: Final = "json-file"
_DRIVERS: Final = ("json-file", "local", "none")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LEAST: Final = 4096
_MOST_FILES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """`max_size` bytes in each of `max_files` files; with the driver `none` nothing is kept.

    `local` is kept in the same form as `json-file`. `options` are the words by which that was asked for.
    """

    driver: str = DEFAULT_DRIVER
    max_size: int = 16 << 20
    max_files: int = 3
    options: tuple[tuple[str, str], ...] = ()

    @property
    def is_kept(self) -> bool:
        return self.driver != "none"

    def to_json(self) -> dict[str, Json]:
        return {"driver": self.driver, "options": dict(self.options)}

    @classmethod
    def parse(cls, driver: str, options: Mapping[str, str]) -> LogConfig:
        """A driver ("": the default) and options by name. UsageError, with Docker's words where it has them."""
        driver = driver or DEFAULT_DRIVER
        if driver not in _DRIVERS:
            raise UsageError(
                f"logger: no log driver named '{driver}' is registered",
                hint=f"{', '.join(_DRIVERS)} are; `firekiln logs -f NAME | …` hands a log on to another program",
            )
        for name in options:
            if driver == "none" or name not in ("max-size", "max-file"):
                raise UsageError(
                    f"unknown log opt '{name}' for {driver} log driver",
                    hint="max-size and max-file are known of json-file and local",
                )
        made = cls(driver=driver, options=tuple(sorted(options.items())))
        return cls(
            driver=driver,
            options=made.options,
            max_size=_size(options["max-size"]) if "max-size" in options else made.max_size,
            max_files=_files(options["max-file"]) if "max-file" in options else made.max_files,
        )


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if size < _LEAST:
        raise UsageError(f"--log-opt max-size={text}: no size", hint=f"such as 10m; {_LEAST} bytes is the least")
    return size


def _files(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:5]) <= _MOST_FILES):
        raise UsageError(f"--log-opt max-file={text}: a number from 1 to {_MOST_FILES}")
    return int(text)
