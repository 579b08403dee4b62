"""`.dockerignore`: its text, and whether a path is left out of the build context. The same patterns serve --exclude.

The matcher is e2b-dockerfile-utils' (Moby's patternmatcher); this is the one module that knows it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from e2b_dockerfile_utils import PatternMatcher

from firekiln.dockerfile.text import SPACE
from firekiln.errors import DockerfileError


class IgnorePatterns:
    """A list of patterns, the last that matches decides; `!` takes a path in again.

    Paths are relative to the context's root, with slashes, as str (file names' undecodable bytes as surrogates).
    ValueError where a pattern is malformed, such as `[a-`.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._matcher = PatternMatcher(list(patterns))

    def __bool__(self) -> bool:
        return bool(self._matcher.patterns)

    def matches(self, path: str) -> bool:
        """Whether the path is left out, itself or by a directory above it."""
        return self._matcher.matches(path)

    def may_match_under(self, directory: str) -> bool:
        """Whether a `!` pattern may take in something below a directory that is left out: if not, don't walk it."""
        return self._matcher.may_match_under(directory)


def read_ignore(text: str, *, file: str = ".dockerignore") -> IgnorePatterns:
    """The patterns of a `.dockerignore`. DockerfileError, with `file` in its message, where one is malformed."""
    try:
        return IgnorePatterns(ignore_lines(text))
    except ValueError as error:
        raise DockerfileError(f"{file}: {error}") from None


def ignore_lines(text: str) -> list[str]:
    """The patterns of a `.dockerignore`, cleaned as Moby does: comments and empty lines dropped, paths made relative.

    A `#` is a comment only in the first column; a byte-order mark before the first line is dropped.
    """
    lines = []
    for line in text.removeprefix("\ufeff").split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip(SPACE)
        if pattern:
            lines.append(_clean(pattern))
    return lines


def _clean(pattern: str) -> str:
    exclusion = pattern.startswith("!")
    path = pattern[1:].strip(SPACE) if exclusion else pattern
    if path:
        path = posixpath.normpath(re.sub("/+", "/", path))
        if len(path) > 1:
            path = path.removeprefix("/")
    return f"!{path}" if exclusion else path
