"""Paths inside an image: Linux rules, slashes only, whatever the host is."""

from __future__ import annotations

import posixpath

WILDCARDS = frozenset("*?[")


def clean(path: str) -> str:
    """The shortest equal path, without `.`, `..` and double slashes; "" is "."."""
    cleaned = posixpath.normpath(path)
    return "/" + cleaned.lstrip("/") if cleaned.startswith("//") else cleaned


def join(*parts: str) -> str:
    """The parts, empty ones left out, joined and cleaned. A later absolute part does not start anew."""
    return clean("/".join(part for part in parts if part))


def working_directory(current: str, path: str) -> str:
    """WORKDIR `path` after `current`. An absolute path stays as it is spelled (`/p/`), as in BuildKit's config."""
    if path.startswith("/"):
        return path
    return join("/", current, path)


def normal(path: str, *, parent: str = "/") -> str:
    """`path` made absolute from `parent`, and cleaned."""
    return clean(path) if path.startswith("/") else join("/", parent, path)


def destination(path: str, working_dir: str) -> str:
    """Where COPY and ADD copy to. A trailing `/` or `/.` is kept: it says that the destination is a directory."""
    wanted = "./" if path in ("", ".") else path
    made = normal(wanted, parent=working_dir)
    if wanted.endswith("/"):
        return made if made == "/" else made + "/"
    if wanted.endswith("/."):
        return "/." if made == "/" else made + "/."
    return made


def has_wildcards(path: str) -> bool:
    """Whether `path` is a pattern: an unescaped `*`, `?` or `[` is in it."""
    escaped = False
    for character in path:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in WILDCARDS:
            return True
    return False
