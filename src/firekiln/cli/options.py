"""Values of options that several verbs share."""

from __future__ import annotations

import os
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
