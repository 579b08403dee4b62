"""`--provenance`, `--sbom` and `--attest` of `build`, in the words of Docker's buildx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from firekiln.errors import UsageError
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestations:
    """What is kept with the image; `said` whether provenance was asked for by name, so that a push takes it along."""

    provenance: Literal["max", "min", "none"] = "max"
    said: bool = False
    sbom: bool = False

    @property
    def pushes_provenance(self) -> bool:
        return self.said and self.provenance != "none"


def parse(provenance: str | None, sbom: str | None, attest: Sequence[str]) -> Attestations:
    """The values of the three options, those of the last one repeated. UsageError."""
    given = {"provenance": provenance, "sbom": sbom}
    for text in attest:
        kind, _, rest = text.partition(",")
        name = kind.strip().lower().removeprefix("type=")
        if name not in given:
            raise UsageError(f"--attest {text}: give type=provenance or type=sbom")
        if given[name] is not None:
            raise UsageError(f"--attest {text}: --{name} is given too")
        given[name] = rest or "true"
    wanted = given["provenance"]
    return Attestations(
        provenance=_provenance(wanted), said=wanted is not None, sbom=_sbom(given["sbom"]) if given["sbom"] else False
    )


def _provenance(text: str | None) -> Literal["max", "min", "none"]:
    match text and text.lower():
        case None | "true" | "1" | "mode=max" | "disabled=false":
            return "max"
        case "mode=min":
            return "min"
        case "false" | "0" | "disabled=true":
            return "none"
        case _:
            raise UsageError(f"--provenance {text}: give true, false, mode=max or mode=min")


def _sbom(text: str) -> bool:
    match text.lower():
        case "true" | "1" | "disabled=false":
            return True
        case "false" | "0" | "disabled=true":
            return False
        case other if other.startswith("generator="):
            raise UsageError(
                f"--sbom {text}: firekiln reads the package databases itself, and runs no generator's image",
                hint="--sbom=true; `firekiln save` gives other scanners the image as an archive",
            )
        case _:
            raise UsageError(f"--sbom {text}: give true or false")
