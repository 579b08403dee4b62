"""The lines of a Dockerfile around a place, as BuildKit shows them under an error or a warning.

Dockerfile:3
--------------------
1 |     FROM debian
2 |
3 | >>> RUNN true
|     ^^^^
4 |     CMD ["x"]
--------------------
"""

from __future__ import annotations

import re
import unicodedata

from firekiln.dockerfile.text import visible
from firekiln.errors import Location

_RULER = "-" * 20
_MAX_WIDTH = 400


def excerpt(source: str, location: Location, *, span: str | None = None) -> str:
    """Some lines of `source` with numbers, those of `location` marked; `span`, where it is found on one, underlined.

    Two lines of context on each side of one line, one beside several; long lines are cut. "" where the location lies
    outside of the text. Control characters are shown as U+FFFD: a text must not command the terminal.
    """
    lines = source.removeprefix("\ufeff").split("\n")
    start, end = location.start, min(max(location.end, location.start), len(lines))
    if not 1 <= start <= len(lines):
        return ""
    first, last = _context(start, end, len(lines))
    shown = [str(location), _RULER]
    for number in range(first, last + 1):
        text = lines[number - 1].rstrip("\r")
        inside = start <= number <= end
        shown.append(f" {number:3} | {'>>>' if inside else '   '} {visible(text[:_MAX_WIDTH])}".rstrip())
        column = _find(text[:_MAX_WIDTH], span) if inside and span else -1
        if span and column >= 0:
            shown.append(f" {'':3} |     {_blank(text[:column])}{'^' * _width(span)}")
            span = None
    return "\n".join([*shown, _RULER]) + "\n"


def _context(start: int, end: int, count: int) -> tuple[int, int]:
    """The range to show: it grows at both ends in turn, by four lines in all around one line, by two around more."""
    pad = 4 if start == end else 2
    grown = 0
    while grown < pad:
        if start > 1:
            start, grown = start - 1, grown + 1
        if end != count:
            end, grown = end + 1, grown + 1
        grown += 1
    return start, end


def _find(text: str, span: str) -> int:
    """Where `span` stands as a word of its own, else where it stands at all; -1 where it doesn't."""
    match = re.search(rf"(?<!\w){re.escape(span)}(?!\w)", text)
    return match.start() if match else text.find(span)


def _blank(text: str) -> str:
    """White space as wide as `text`; tabs stay tabs."""
    return "".join("\t" if char == "\t" else " " * _width(char) for char in text)


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
