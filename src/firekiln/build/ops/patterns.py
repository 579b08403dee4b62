"""Include and exclude patterns of COPY: `--parents`, `--exclude`."""

from __future__ import annotations

from firekiln.build.graph import Copy
from firekiln.dockerfile.ignore import IgnorePatterns
from firekiln.errors import BuildError


class Filter:
    """What one action takes of a directory. Patterns are matched against paths relative to the source directory.

    BuildError where one is malformed.
    """

    def __init__(self, action: Copy) -> None:
        self._include = _patterns(action.include_patterns)
        self._exclude = _patterns(action.exclude_patterns)
        self.takes_all = self._include is None and self._exclude is None

    def takes(self, path: bytes) -> bool:
        """Whether the node at `path` is copied (a directory above one that is copied is, too)."""
        text = path.decode(errors="surrogateescape")
        if self._include is not None and not self._include.matches(text):
            return False
        return self._exclude is None or not self._exclude.matches(text)

    def takes_below(self, path: bytes) -> bool:
        """Whether anything below the directory at `path` may be copied: False spares a walk."""
        text = path.decode(errors="surrogateescape")
        return self._exclude is None or not self._exclude.matches(text) or self._exclude.may_match_under(text)


def _patterns(patterns: tuple[str, ...]) -> IgnorePatterns | None:
    try:
        return IgnorePatterns(patterns) if patterns else None
    except ValueError as error:
        raise BuildError(str(error)) from None
