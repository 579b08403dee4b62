"""What both forms of the document, SPDX and CycloneDX, are made of, and what they have in common.

Neither tells when or where it was made: the same image gives the same bytes. The time in it is the image's own, and
what has to be unique is derived from the content.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from firekiln.build.sbom.inventory import Inventory
from firekiln.values import dataclass

Form: TypeAlias = Literal["spdx-json", "cyclonedx-json"]

TOOL: Final = "firekiln"
UNNAMED: Final = "_"
"""The name of an image that has none, as BuildKit's."""
_LINKS: Final = ("http://", "https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An image: what it is called, and what is in it. `created` is RFC 3339's form or empty."""

    name: str
    created: str
    inventory: Inventory


def encoded(subject: Subject, form: Form) -> bytes:
    """The document of that form, as JSON for machines."""
    match form:
        case "spdx-json":
            from firekiln.build.sbom import spdx  # noqa: PLC0415 - one form is wanted

            return spdx.encoded(subject)
        case "cyclonedx-json":
            from firekiln.build.sbom import cyclonedx  # noqa: PLC0415 - as above

            return cyclonedx.encoded(subject)


def moment(subject: Subject) -> datetime:
    """When the image came to be, in whole seconds of UTC; the epoch's start where that is unknown."""
    try:
        found = datetime.fromisoformat(subject.created)
        return found.astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        return datetime.fromtimestamp(0, UTC)


def link(text: str) -> str:
    """`text` where it is a URL of the web, else empty: others' databases hold anything there."""
    return text if text.startswith(_LINKS) and text.isascii() and not set(text) & set(' "<>\\^`{|}#') else ""
