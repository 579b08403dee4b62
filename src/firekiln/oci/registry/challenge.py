"""What a registry asks for in `WWW-Authenticate` (RFC 9110, section 11.6.1; distribution's token specification)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, cast

from firekiln.values import dataclass

_WORD = re.compile(r'([A-Za-z][A-Za-z0-9_-]*)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+)))?')

Scheme = Literal["basic", "bearer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One way to authenticate; `parameters` have lower-case names (`realm`, `service`, `scope`)."""

    scheme: Scheme
    parameters: Mapping[str, str]


def parse(header: str) -> tuple[Challenge, ...]:
    """The challenges of a header that we can answer, in its order. A word without a value begins the next one."""
    found: list[tuple[str, dict[str, str]]] = []
    for word in _WORD.finditer(header):
        name, quoted, plain = word.groups()
        if quoted is None and plain is None:
            found.append((name.lower(), {}))
        elif found:
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1][1][name.lower()] = value
    return tuple(
        Challenge(scheme=cast("Scheme", scheme), parameters=parameters)
        for scheme, parameters in found
        if scheme in ("basic", "bearer")
    )
