"""`--chown` and `--chmod`: what can be said of them without looking at a file system."""

from __future__ import annotations

import re

from firekiln.build.graph import Owner

_SYMBOLIC = re.compile(r"[ugoa]*(?:[-+=][rwxXstugo]*)+(?:,[ugoa]*(?:[-+=][rwxXstugo]*)+)*")
_MAX_ID = 2**32 - 1


def parse_owner(text: str) -> Owner:
    """`user[:group]`, each a name or a number.

    As in BuildKit, `root` and an empty word are 0 without a look at passwd, and a number beyond 32 bits is a name.
    """
    user, colon, group = text.partition(":")
    return Owner(user=_identity(user), group=_identity(group) if colon else None)


def parse_mode(text: str) -> int | str:
    """An octal mode as a number, or a symbolic one as it stands. ValueError where it is neither."""
    if re.fullmatch(r"[0-7]+", text):
        mode = int(text, 8)
        if mode <= 0o7777:
            return mode
    elif _SYMBOLIC.fullmatch(text):
        return text
    if text[:1].isdigit():
        raise ValueError(f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
    raise ValueError(f"invalid chmod parameter: '{text}'. it should be octal (0644) or symbolic (u=rwX,go=rX)")


def _identity(word: str) -> str | int:
    if word in ("root", ""):
        return 0
    if re.fullmatch(r"[0-9]{1,18}", word) and int(word) <= _MAX_ID:
        return int(word)
    return word
