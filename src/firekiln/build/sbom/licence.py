"""Licences as SPDX has them: `license-expression` knows the list of their identifiers."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

_LONGEST: Final = 1000
"""Characters of an expression that is worth a parser's while."""


def expression(text: str) -> str:
    """`text` in SPDX's spelling where it is an expression of identifiers that SPDX lists; else empty."""
    return _expression(text) if 0 < len(text) <= _LONGEST and "LicenseRef-" not in text else ""


@cache
def _expression(text: str) -> str:
    """Thousands of packages have dozens of licences."""
    try:
        found = _licensing().validate(text)
    except RecursionError:  # brackets within brackets
        return ""
    normal = str(found.normalized_expression or "") if not found.errors else ""
    return normal if "LicenseRef-" not in normal else ""  # of lists that are not SPDX's


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing  # noqa: PLC0415 - it has no types, and reads a long list

    return get_spdx_licensing()
