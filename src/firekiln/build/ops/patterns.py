"""Include and exclude patterns of COPY: `--parents`, `--exclude`."""

from __future__ import annotations

from firekiln.build.graph import Copy
from firekiln.dockerfile.ignore import IgnorePatterns


class Filter:
    """What one action takes of a directory. Patterns are matched against paths relative to the source directory."""

    def __init__(self, action: Copy) -> None:
        self._include = IgnorePatterns(action.include_patterns) if action.include_patterns else None
        self._exclude = IgnorePatterns(action.exclude_patterns) if action.exclude_patterns else None
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
