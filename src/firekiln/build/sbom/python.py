"""Python's distributions: `METADATA` of a `.dist-info` folder, `PKG-INFO` of an `.egg-info` one, or such a file itself.

The core metadata of packaging.python.org: the headers of a mail, read by the module that `importlib.metadata` reads
them with.
"""

from __future__ import annotations

from email.errors import MessageError
from email.parser import HeaderParser
from typing import Final

from firekiln.build.sbom.package import Package, line

MOST: Final = 1 << 20
"""Bytes that are read of a file: after its headers descriptions follow, which may be long."""


def package(text: str, *, where: str) -> Package | None:
    """None where it has no name or version."""
    try:
        headers = HeaderParser().parsestr(text.replace("\r\n", "\n").partition("\n\n")[0], headersonly=True)
    except MessageError:
        return None
    name, version = _field(headers["Name"]), _field(headers["Version"])
    if not name or not version:
        return None
    return Package(
        kind="pypi",
        name=name,
        version=version,
        where=where,
        licence=_field(headers["License-Expression"]) or _short(_field(headers["License"])),
        supplier=_field(headers["Author"]) or _field(headers["Author-email"]),
        homepage=_field(headers["Home-page"]),
        summary=_field(headers["Summary"]),
    )


def _field(value: object) -> str:
    text = line(str(value)) if value is not None else ""
    return "" if text == "UNKNOWN" else text  # what old setuptools write for nothing


def _short(licence: str) -> str:
    """Some put the licence's whole text here."""
    return licence if len(licence) <= 80 else ""
