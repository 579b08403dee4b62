"""Go's `path.Match`, which BuildKit matches the sources of COPY and ADD with.

`*` and `?` stop at a slash, `**` is no more than `*`, a class is negated by `^` only, and a backslash takes the
meaning from what follows it. A leading dot is nothing special.
"""

from __future__ import annotations

import re


def has_wildcard(path: str) -> bool:
    """Whether BuildKit takes `path` for a pattern: an unescaped `*`, `?` or `[`."""
    return re.search(r"[*?\[]", re.sub(r"\\.", "", path, flags=re.DOTALL)) is not None


def compile_name(pattern: str) -> re.Pattern[str]:
    """A pattern of one name (no slash) as a regular expression for `fullmatch`. ValueError where it is malformed."""
    out: list[str] = []
    position = 0
    while position < len(pattern):
        letter = pattern[position]
        position += 1
        if letter == "*":
            out.append(".*")
        elif letter == "?":
            out.append(".")
        elif letter == "[":
            text, position = _class(pattern, position)
            out.append(text)
        else:
            if letter == "\\":
                letter, position = _letter(pattern, position - 1)
            out.append(re.escape(letter))
    return re.compile("".join(out), re.DOTALL)


def _class(pattern: str, position: int) -> tuple[str, int]:
    """The class that begins at `position`, behind its bracket, and where it ends."""
    negated = pattern[position : position + 1] == "^"
    position += negated
    ranges: list[str] = []
    while not ranges or pattern[position : position + 1] != "]":
        if pattern[position : position + 1] in {"-", "]"}:
            raise ValueError("syntax error in pattern")
        low, position = _letter(pattern, position)
        high = low
        if pattern[position : position + 1] == "-":
            high, position = _letter(pattern, position + 1)
        if low <= high:  # a range backwards matches nothing, which is no error
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            ranges.append("")
    inside = "".join(ranges)
    if not inside:
        return ("." if negated else r"(?!)"), position + 1
    return f"[{'^' * negated}{inside}]", position + 1


def _letter(pattern: str, position: int) -> tuple[str, int]:
    """One letter, perhaps escaped, and where the next one stands."""
    if pattern[position : position + 1] == "\\":
        position += 1
    if position >= len(pattern):
        raise ValueError("syntax error in pattern")
    return pattern[position], position + 1
