"""`images --filter`: Docker's filters of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from firekiln.errors import UsageError
from firekiln.store import Store, StoredImage

_NONE = "<none>"
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})

Test: TypeAlias = Callable[[StoredImage, Mapping[str, str]], bool]
"""Whether an image, of whose names a row of the listing shows one, passes."""


def parse_filters(texts: Sequence[str], store: Store) -> Test:
    """All of `KEY=VALUE` in one; of several references one is enough, as in Docker.

    UsageError for a filter that is none; ImageNotFoundError where `before` or `since` names no image.
    """
    tests: list[Test] = []
    references: list[Test] = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--filter {text}: invalid filter", hint="give it as KEY=VALUE")
        (references if key == "reference" else tests).append(_test(key, value, store))

    def passes(image: StoredImage, row: Mapping[str, str]) -> bool:
        named = not references or any(test(image, row) for test in references)
        return named and all(test(image, row) for test in tests)

    return passes


def _test(key: str, value: str, store: Store) -> Test:
    match key:
        case "dangling":
            if value not in _TRUE | _FALSE:
                raise UsageError(f"--filter dangling={value}: give true or false")
            return lambda image, _: (not image.references) == (value in _TRUE)
        case "label":
            name, equals, wanted = value.partition("=")
            return lambda image, _: _has_label(image.image.config.labels, name, wanted if equals else None)
        case "before":
            border = store.images.get(value).image.created or ""
            return lambda image, _: (image.image.created or "") < border
        case "since":
            border = store.images.get(value).image.created or ""
            return lambda image, _: (image.image.created or "") > border
        case "reference":
            return lambda _, row: _matches(row, value)
        case _:
            hint = "dangling, label, before, since or reference"
            raise UsageError(f"--filter {key}={value}: invalid filter '{key}'", hint=hint)


def _has_label(labels: Mapping[str, str], name: str, value: str | None) -> bool:
    return name in labels and value in (None, labels[name])


def _matches(row: Mapping[str, str], pattern: str) -> bool:
    """Whether the row's name matches, with its tag or without; `*` does not go beyond a slash."""
    repository, tag = row["Repository"], row["Tag"]
    return repository != _NONE and any(_path_matches(name, pattern) for name in (repository, f"{repository}:{tag}"))


def _path_matches(name: str, pattern: str) -> bool:
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))
