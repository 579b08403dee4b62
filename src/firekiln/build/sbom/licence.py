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
        parsed = _licensing().parse(text, validate=True, strict=True)
    except Exception:  # noqa: BLE001 - what it takes for a mistake it says with errors of its own, IndexError and others
        return ""
    normal = str(parsed) if parsed is not None else ""
    return normal if "LicenseRef-" not in normal else ""  # of lists that are not SPDX's


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing  # noqa: PLC0415 - it has no types, and reads a long list

    return get_spdx_licensing()
