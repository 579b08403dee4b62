"""Images of the store, which are fetched or made where they are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from firekiln.errors import UsageError
from firekiln.oci.platform import Platform
from firekiln.store import Store, StoredImage
from firekiln.values import dataclass

if TYPE_CHECKING:
    from firekiln.build.events import Subscriber

Pull: TypeAlias = Literal["always", "missing", "never"]
"""When a registry is asked for an image: anew each time, where the store lacks it, or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What `build` made. `digest` is the image's: its manifest's."""

    image: StoredImage

    @property
    def digest(self) -> str:
        return self.image.digest

    @property
    def config_digest(self) -> str:
        return self.image.config_digest

    @property
    def references(self) -> tuple[str, ...]:
        return self.image.references


def ensure_image(
    store: Store,
    name: str,
    *,
    platform: Platform | None = None,
    pull: Pull = "missing",
    on_event: Subscriber | None = None,
) -> StoredImage:
    """The image of that name or digest; one that the store lacks is fetched or made. ImageNotFoundError."""
    found = store.images.find(name, platform)
    if found is not None and pull != "always":
        return found
    from firekiln.api.bases import resolve  # noqa: PLC0415 - most are there

    return resolve(store, name, platform or Platform.host(), pull=pull, on_event=on_event)


def parse_platform(text: str | None) -> Platform | None:
    """`--platform`. UsageError where it is none."""
    try:
        return Platform.parse(text) if text else None
    except ValueError as error:
        raise UsageError(str(error)) from error
