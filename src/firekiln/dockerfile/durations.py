"""Durations as Go writes them: `1m30s`, `1.5h`, `300ms`."""

from __future__ import annotations

import re

_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,  # U+00B5, the micro sign
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(rf"(\d+(?:\.\d*)?|\.\d+)({'|'.join(_UNITS)})", re.ASCII)
_DURATION = re.compile(rf"[-+]?(?:{_PART.pattern})+", re.ASCII)
_MAX = 2**63 - 1


def parse_duration(text: str) -> int:
    """Nanoseconds, negative ones too. ValueError with the reason where `text` is no duration or over 292 years."""
    if text.lstrip("+-") == "0" and len(text) <= 2:
        return 0
    if len(text) > 100 or not _DURATION.fullmatch(text):
        raise ValueError(f'invalid duration "{text[:100]}"')
    from fractions import Fraction  # noqa: PLC0415 - 2 ms to import, and few Dockerfiles have a duration

    total = int(sum(int(Fraction(f"0{number}") * _UNITS[unit]) for number, unit in _PART.findall(text)))
    if total > _MAX:
        raise ValueError(f'invalid duration "{text}"')
    return -total if text.startswith("-") else total
