"""Values of options that several verbs share."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from firekiln.errors import UsageError


def build_arguments(texts: Sequence[str]) -> dict[str, str]:
    """--build-arg: a name alone takes its value from the environment, and is nothing where it has none there."""
    made: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"--build-arg {text}: a name is missing")
        if equals:
            made[name] = value
        elif name in os.environ:
            made[name] = os.environ[name]
    return made


_ANNOTATION = re.compile(
    r"(?:(manifest|index|manifest-descriptor|index-descriptor)(?:\[([^\]]*)\])?:)?([^=]+)=(.*)", re.DOTALL
)


def manifest_annotations(texts: Sequence[str]) -> dict[str, str]:
    """--annotation: NAME=VALUE of the manifest, perhaps with buildx's `manifest:` or `manifest[PLATFORM]:` before it.

    UsageError for what an image of one platform has no place for.
    """
    made: dict[str, str] = {}
    for text in texts:
        found = _ANNOTATION.fullmatch(text)
        if found is None:
            raise UsageError(f'--annotation {text}: invalid annotation "{text}", expected NAME=VALUE')
        kind, _, name, value = found.groups()
        if kind and kind != "manifest":
            raise UsageError(f"--annotation {text}: {kind} annotations are not supported for a single platform")
        made[name] = value
    return made
