"""Statements about images in registries: an in-toto statement as an artifact that refers to its image.

image-spec v1.1, "Guidelines for Artifact Usage"; media type and annotation are those of BuildKit's attestations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from firekiln.oci import digest as digests
from firekiln.oci.config import Json
from firekiln.oci.manifest import EMPTY, MEDIA_TYPE_EMPTY, Descriptor, Manifest, encode

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PROVENANCE: Final = "provenance"
SBOM: Final = "sbom"
"""Kinds of statements: what came of what, and what is in it."""
KINDS: Final[Mapping[str, str]] = {
    "https://slsa.dev/provenance/v1": PROVENANCE,
    "https://spdx.dev/Document": SBOM,
}
"""By predicate type."""
BEGINNING: Final = b'{"_type":'
"""Of a statement in canonical form, in which keys are sorted."""
MEDIA_TYPE_STATEMENT: Final = "application/vnd.in-toto+json"
ANNOTATION_PREDICATE_TYPE: Final = "in-toto.io/predicate-type"


def read(statement: bytes) -> tuple[str, Sequence[str]]:
    """A statement's kind, and the digests of what it is about.

    AttributeError, KeyError, TypeError or ValueError where it is none of ours.
    """
    document = json.loads(statement)
    return KINDS[document["predicateType"]], [
        f"{algorithm}:{value}" for subject in document["subject"] for algorithm, value in subject["digest"].items()
    ]


def about(statement: bytes, digest: str, blobs: Mapping[str, str]) -> bytes:
    """A statement made of the store's image, said of the same image as a registry has it.

    `digest` is what the registry knows it by; `blobs` are the registry's by the store's digests. Wherever one of the
    latter stands as a digest of its own it is replaced.
    """
    document = json.loads(statement)
    for subject in document["subject"]:
        subject["digest"] = digest_set(digest)
    return encode(_replaced(document, {old: new for old, new in blobs.items() if old != new}))


def referrer(statement: bytes, subject: Descriptor) -> tuple[bytes, Mapping[str, bytes]]:
    """The manifest of an artifact that holds a statement about `subject`, and its blobs by digest."""
    layer = Descriptor(
        media_type=MEDIA_TYPE_STATEMENT,
        digest=digests.of(statement),
        size=len(statement),
        annotations={ANNOTATION_PREDICATE_TYPE: str(json.loads(statement)["predicateType"])},
    )
    empty = Descriptor(media_type=MEDIA_TYPE_EMPTY, digest=digests.of(EMPTY), size=len(EMPTY))
    manifest = Manifest(
        config=empty,
        layers=(layer,),
        annotations=layer.annotations,
        extra={"artifactType": MEDIA_TYPE_STATEMENT, "subject": subject.to_json()},
    )
    return manifest.encode(), {layer.digest: statement, empty.digest: EMPTY}


def _replaced(value: Any, blobs: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_replaced(item, blobs) for item in value]
    if not isinstance(value, dict):
        return value
    known = blobs.get(f"sha256:{value['sha256']}") if value.keys() == {"sha256"} else None
    return digest_set(known) if known else {key: _replaced(item, blobs) for key, item in value.items()}


def digest_set(digest: str) -> dict[str, Json]:
    """in-toto's DigestSet of an OCI digest."""
    algorithm, _, value = digest.partition(":")
    return {algorithm: value}
