"""`(did you mean …?)`: the nearest of some words, at BuildKit's distance of at most two edits."""

from __future__ import annotations

from collections.abc import Iterable

_TOO_FAR = 3
_MAX_LENGTH = 64
_MAX_OPTIONS = 300


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option at the least edit distance, the first in alphabetical order of several.

    None where all are further than two edits, or where `word` is itself an option: then it is not to blame. Long words
    have no nearest one, and of very many options only some are looked at.
    """
    if len(word) > _MAX_LENGTH:
        return None
    best, least = None, _TOO_FAR
    for option in sorted(options)[:_MAX_OPTIONS]:
        if option == word:
            return None
        distance = _distance(word, option)
        if distance < least:
            best, least = option, distance
    return best


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """` (did you mean x?)`, to be put behind a message, or nothing."""
    match = nearest(word, options)
    return f" (did you mean {match}?)" if match else ""


def _distance(left: str, right: str) -> int:
    """Levenshtein's distance, exact below 3; hostile lengths are not computed."""
    if abs(len(left) - len(right)) >= _TOO_FAR:
        return _TOO_FAR
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]
