"""dpkg's databases: `var/lib/dpkg/status` (deb822; dpkg(1), deb-control(5)), and `status.d/` of distroless images.

Each file of `status.d` is one package's control file, which has no Status.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from firekiln.build.sbom.package import Package, line

_ABSENT = frozenset({"not-installed", "config-files"})
"""States of packages of which no program is there any more."""


def packages(text: str, *, where: str) -> Iterator[Package]:
    """Those that are installed, be it by half: dpkg unpacks before it sets up."""
    for stanza in stanzas(text):
        name, version = stanza.get("package", ""), stanza.get("version", "")
        state = stanza.get("status", "").split()[-1:]
        if not name or not version or (state and state[0] in _ABSENT):
            continue
        yield Package(
            kind="deb",
            name=name,
            version=version,
            where=where,
            architecture=stanza.get("architecture", ""),
            source=_source(stanza.get("source", ""), name),
            supplier=stanza.get("maintainer", ""),
            homepage=stanza.get("homepage", ""),
            summary=stanza.get("description", ""),
        )


def stanzas(text: str) -> Iterator[Mapping[str, str]]:
    """Fields by name in lower case, of each only the first line, as one line; continuation lines are left out."""
    fields: dict[str, str] = {}
    for row in text.split("\n"):
        if not row.strip():
            if fields:
                yield fields
            fields = {}
        elif row[0] not in " \t":
            name, colon, value = row.partition(":")
            if colon:
                fields.setdefault(name.strip().lower(), line(value))
    if fields:
        yield fields


def _source(text: str, package: str) -> str:
    """`NAME` or `NAME (VERSION)`, of a Source field that is there where it says something."""
    name, _, version = text.partition(" ")
    version = version.strip("() ")
    return f"{name or package}@{version}" if version else name
