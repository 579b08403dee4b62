"""Tables and words as Docker prints them."""

from __future__ import annotations

from collections.abc import Sequence

import click

_GAP = 3
_LEAST_WIDTH = 10
_STEPS = ((60, 1, "second"), (3600, 60, "minute"), (48 * 3600, 3600, "hour"), (14 * 86400, 86400, "day"))
_LONG_STEPS = ((60 * 86400, 7 * 86400, "week"), (2 * 365 * 86400, 30 * 86400, "month"))


def print_table(heading: Sequence[str], rows: Sequence[Sequence[str]], *, least: int = _LEAST_WIDTH) -> None:
    """Columns as wide as their longest cell, three blanks between them, and no narrower than `least` with these."""
    table = [heading, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(heading))]
    for row in table:
        cells = (cell.ljust(max(width + _GAP, least)) for cell, width in zip(row, widths, strict=True))
        click.echo("".join(cells).rstrip())


def human_size(size: int) -> str:
    """`1.2kB`, `356MB`: go-units' HumanSize, three significant digits."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g}{units[0]}"


def human_duration(seconds: float) -> str:
    """`5 seconds`, `About a minute`, `3 hours`: go-units' HumanDuration."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if 60 <= whole < 120:
        return "About a minute"
    if 3600 <= whole < 7200:
        return "About an hour"
    for limit, unit, word in (*_STEPS, *_LONG_STEPS):
        if whole < limit:
            count = whole // unit
            return f"{count} {word}" if count == 1 else f"{count} {word}s"
    return f"{whole // (365 * 86400)} years"
