"""Bills of materials: what is installed in an image."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from firekiln.api.images import parse_platform
from firekiln.oci.attestation import SBOM
from firekiln.oci.reference import Reference
from firekiln.store import Store, StoredImage

if TYPE_CHECKING:
    from firekiln.build.sbom.document import Form, Subject


def sbom(
    image: str,
    form: Form = "spdx-json",
    *,
    platform: str | None = None,
    store: Store | str | Path | None = None,
) -> bytes:
    """The packages in an image of the store, as a document of that form: JSON.

    They are looked up now, whether or not a list is kept with the image. The same image gives the same bytes.
    ImageNotFoundError, DamagedError.
    """
    from firekiln.build.sbom.document import encoded  # noqa: PLC0415 - who builds lists nothing

    return encoded(installed_packages(image, platform=platform, store=store), form)


def installed_packages(image: str, *, platform: str | None = None, store: Store | str | Path | None = None) -> Subject:
    """What `sbom` makes a document of: the image's packages, and what could not be read. As `sbom`."""
    from firekiln.build.sbom import scan  # noqa: PLC0415 - who builds lists nothing
    from firekiln.build.sbom.document import Subject  # noqa: PLC0415 - ditto

    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        found = opened.images.get(image, parse_platform(platform))
        return Subject(
            name=_name(found), created=found.image.created or "", inventory=scan(opened.layers.merged(found.layers))
        )


def sbom_statement(store: Store, image: StoredImage) -> bytes:
    """The statement on its packages that is kept with an image; made now, and not kept, where there is none."""
    from firekiln.build.sbom.statement import statement  # noqa: PLC0415 - who builds lists nothing

    if SBOM in image.attestations:
        return store.blobs.read(image.attestations[SBOM])
    tree = store.layers.merged(image.layers)
    return statement(tree, name=_name(image), created=image.image.created or "", digest=image.digest).data


def _name(image: StoredImage) -> str:
    from firekiln.build.sbom.document import UNNAMED  # noqa: PLC0415 - who builds lists nothing

    return Reference.parse(image.references[0]).familiar if image.references else UNNAMED
