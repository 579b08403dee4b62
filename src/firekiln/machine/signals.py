"""Signals by their names, as Docker's users write them. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from firekiln.errors import UsageError

_SIGRTMIN = 34  # glibc's and musl's first, and what Docker's SIGRTMIN+n counts from
_SIGRTMAX = 64


def signal_number(text: str) -> int:
    """`SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-1` as a number; Docker's words. UsageError for another text."""
    word = text.strip().upper().removeprefix("SIG")
    if word.isascii() and word.isdecimal():
        number = int(word[:4])
    elif word.startswith("RTMIN"):
        number = _SIGRTMIN + _offset(word.removeprefix("RTMIN"), "+")
    elif word.startswith("RTMAX"):
        number = _SIGRTMAX - _offset(word.removeprefix("RTMAX"), "-")
    else:
        number = _SIGNALS.get(word, 0)
    if not 1 <= number <= _SIGRTMAX:
        raise UsageError(f"invalid signal: {text}", hint="name it like SIGTERM, SIGRTMIN+3 or 15")
    return number


_SIGNALS: Mapping[str, int] = {
    item.name.removeprefix("SIG"): item.value for item in signal.Signals if not item.name.startswith("SIGRT")
} | {"CLD": signal.SIGCHLD.value, "POLL": signal.SIGIO.value}


def _offset(text: str, sign: str) -> int:
    digits = text.removeprefix(sign)
    if not text:
        return 0
    valid = text.startswith(sign) and digits.isascii() and digits.isdecimal() and len(digits) <= 2
    return int(digits) if valid else 1000
