"""SPDX 2.3 as JSON (spdx.github.io/spdx-spec/v2.3): what BuildKit keeps with images, and its scanners read.

Written here, since the document is a list of plain records; SPDX's own library, which brings RDF along, is the referee
in the tests.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from firekiln.build.sbom.document import TOOL, Subject, link, moment
from firekiln.build.sbom.licence import expression
from firekiln.build.sbom.package import Package, System
from firekiln.build.sbom.purl import purl
from firekiln.oci.config import Json
from firekiln.oci.manifest import encode
from firekiln.version import __version__

PREDICATE_TYPE: Final = "https://spdx.dev/Document"
_DOCUMENT: Final = "SPDXRef-DOCUMENT"
_IMAGE: Final = "SPDXRef-Image"
_UNKNOWN: Final = "NOASSERTION"
_FORBIDDEN: Final = re.compile(r"[^A-Za-z0-9.-]")
_DATABASES: Final = {"deb": "dpkg", "apk": "apk", "rpm": "rpm", "pypi": "Python"}
_BRACKETS: Final = str.maketrans("()", "[]")
"""In the name of a person or organisation, round ones would enclose an address."""


def document(subject: Subject) -> dict[str, Json]:
    """The document, its namespace derived from all else in it."""
    inventory = subject.inventory
    records = [_record(package, inventory.system) for package in inventory.packages]
    made: dict[str, Json] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": subject.name,
        "creationInfo": {
            "created": moment(subject).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: {TOOL}-{__version__}"],
        },
        "packages": [_image(subject), *records],
        "relationships": [
            _relationship(_DOCUMENT, "DESCRIBES", _IMAGE),
            *(_relationship(_IMAGE, "CONTAINS", str(record["SPDXID"])) for record in records),
        ],
    }
    if inventory.unread:
        made["comment"] = "\n".join(inventory.unread)
    return {**made, "documentNamespace": f"urn:firekiln:spdx:{hashlib.sha256(encode(made)).hexdigest()}"}


def encoded(subject: Subject) -> bytes:
    """The document in canonical bytes."""
    return encode(document(subject))


def _image(subject: Subject) -> Json:
    return {
        "SPDXID": _IMAGE,
        "name": subject.name,
        "primaryPackagePurpose": "CONTAINER",
        **_unsaid(),
        **({"description": subject.inventory.system.name} if subject.inventory.system.name else {}),
    }


def _record(package: Package, system: System) -> dict[str, Json]:
    url = purl(package, system).to_string()
    known = hashlib.sha256(f"{url} {package.where}".encode()).hexdigest()[:16]
    name = _FORBIDDEN.sub("-", package.name)[:64]
    declared = expression(package.licence)
    made: dict[str, Json] = {
        "SPDXID": f"SPDXRef-Package-{package.kind}-{name}-{known}",
        "name": package.name,
        "versionInfo": package.version,
        **_unsaid(),
        "licenseDeclared": declared or _UNKNOWN,
        "sourceInfo": f"by {_DATABASES[package.kind]}'s database: {package.where}",
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": url},
        ],
    }
    said = {
        "supplier": f"Organization: {package.supplier.translate(_BRACKETS)}" if package.supplier else "",
        "homepage": link(package.homepage),
        "summary": package.summary,
        "licenseComments": f"declared as: {package.licence}" if package.licence and not declared else "",
    }
    return made | {key: value for key, value in said.items() if value}


def _unsaid() -> dict[str, Json]:
    """What has to be said, if only that it is not known."""
    return {
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
    }


def _relationship(one: str, kind: str, other: str) -> Json:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
