"""STOPSIGNAL's names: those of Linux, wherever the build runs."""

from __future__ import annotations

import re

_NAMES = frozenset(
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP "
    "TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX".split()
)
_REALTIME = re.compile(r"RTMIN\+(?:[1-9]|1[0-5])|RTMAX-(?:[1-9]|1[0-4])")


def check_signal(text: str) -> None:
    """ValueError, in Docker's words, unless `text` is a signal's number, or its name with or without SIG."""
    if re.fullmatch(r"[+-]?\d{1,9}", text, re.ASCII):
        if int(text) == 0:
            raise ValueError(f"Invalid signal: {text}")
        return
    name = text.upper().removeprefix("SIG")
    if name not in _NAMES and not _REALTIME.fullmatch(name):
        raise ValueError(f"Invalid signal: {text}")
