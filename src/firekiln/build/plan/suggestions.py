"""`did you mean …?`: the nearest of some words, within BuildKit's distance of two edits."""

from __future__ import annotations

from collections.abc import Iterable

_TOO_FAR = 3


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The first of the options at the least edit distance below 3; None where there is none, or `word` is one."""
    best, least = None, _TOO_FAR
    for option in options:
        if option == word:
            return None
        distance = _distance(word, option, least)
        if distance < least:
            best, least = option, distance
    return best


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """` (did you mean x?)`, to be put behind a message, or nothing."""
    match = nearest(word, options)
    return f" (did you mean {match}?)" if match else ""


def _distance(left: str, right: str, limit: int) -> int:
    """Levenshtein's distance, or `limit` where it is at least that."""
    if abs(len(left) - len(right)) >= limit:
        return limit
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return min(row[-1], limit)
