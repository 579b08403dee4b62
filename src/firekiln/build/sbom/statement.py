"""The statement that is kept with an image: an in-toto statement with the SPDX document as its predicate.

As BuildKit's SBOM attestations (docs/attestations/sbom.md): predicate type `https://spdx.dev/Document`.
"""

from __future__ import annotations

from firekiln.build.sbom.document import UNNAMED, Subject
from firekiln.build.sbom.inventory import scan
from firekiln.build.sbom.spdx import PREDICATE_TYPE, document
from firekiln.oci.attestation import STATEMENT_TYPE, digest_set
from firekiln.oci.manifest import encode
from firekiln.rootfs.tree import Tree
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Its canonical JSON, and lines on what could not be read."""

    data: bytes
    unread: tuple[str, ...]


def statement(tree: Tree, *, name: str, created: str, digest: str) -> Statement:
    """What is in `tree`, the image `digest`'s. The same image under the same name gives the same bytes."""
    subject = Subject(name=name or UNNAMED, created=created, inventory=scan(tree))
    data = encode(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": subject.name, "digest": digest_set(digest)}],
            "predicateType": PREDICATE_TYPE,
            "predicate": document(subject),
        }
    )
    return Statement(data=data, unread=subject.inventory.unread)
