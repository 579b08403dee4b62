"""What a bill of materials lists: installed packages, and the system that they are of."""

from __future__ import annotations

from typing import Literal, TypeAlias

from firekiln.values import dataclass

Kind: TypeAlias = Literal["deb", "apk", "rpm", "pypi"]
"""Types of package URLs (purl-spec, PURL-TYPES)."""

LARGEST_TEXT = 64 << 20
"""Bytes of a database that is text: all of Debian's archive has one of 60 MB. A larger one is left unread."""


class UnreadError(Exception):
    """A database that cannot be read: its packages are missing from the list, which says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The distribution, by os-release(5): `identifier` is ID, `version` VERSION_ID; empty where there is none."""

    identifier: str = ""
    version: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One installed package, in the words of the database at the path `where`.

    `source` is what it was built of, where that has another name or version: `NAME` or `NAME@VERSION`, for rpm the
    source package's file. `licence` is whatever stands there, an SPDX expression or not.
    """

    kind: Kind
    name: str
    version: str
    where: str
    architecture: str = ""
    epoch: str = ""
    source: str = ""
    licence: str = ""
    supplier: str = ""
    homepage: str = ""
    summary: str = ""


def line(text: str) -> str:
    """`text` as one line without control characters or lone surrogates, which others' databases may hold."""
    return " ".join((text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)).split())
