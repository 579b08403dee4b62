"""Points in time as Docker's `--since` and `--until` take them."""

from __future__ import annotations

import re
import time
from datetime import datetime

from firekiln.errors import UsageError

_UNIX = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?")


def parse_moment(text: str, option: str) -> int:
    """`10m` (ago), `2026-11-23T10:00:00`, `1790000000.5`, in ns since the epoch. UsageError."""
    if found := _UNIX.fullmatch(text):
        return int(found[1]) * 1_000_000_000 + int((found[2] or "").ljust(9, "0"))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        from firekiln.dockerfile.durations import parse_duration  # noqa: PLC0415 - imported when used

        try:
            return time.time_ns() - parse_duration(text)
        except ValueError as error:
            hint = "write it like 10m, 2026-11-23T10:00:00 or 1790000000"
            raise UsageError(f"{option} {text}: neither a time nor a duration", hint=hint) from error
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000
