"""apk's database of what is installed, `lib/apk/db/installed`: records of lines `LETTER:VALUE`, apart by empty lines.

apk-tools, src/package.c and src/database.c: P name, V version, A architecture, L licence, o source, m maintainer, U
address, T description. Lines about files (F, R, a, Z, M) follow in the same record.
"""

from __future__ import annotations

from collections.abc import Iterator

from firekiln.build.sbom.package import Package, line

_WANTED = frozenset("PVALomUT")


def packages(text: str, *, where: str) -> Iterator[Package]:
    """All of them."""
    for record in text.split("\n\n"):
        rows = (row.partition(":") for row in record.split("\n"))
        fields = {name: line(value) for name, colon, value in rows if colon and name in _WANTED}
        name, version = fields.get("P", ""), fields.get("V", "")
        if not name or not version:
            continue
        origin = fields.get("o", "")
        yield Package(
            kind="apk",
            name=name,
            version=version,
            where=where,
            architecture=fields.get("A", ""),
            source=origin if origin != name else "",
            licence=fields.get("L", ""),
            supplier=fields.get("m", ""),
            homepage=fields.get("U", ""),
            summary=fields.get("T", ""),
        )
