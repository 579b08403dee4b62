"""Where base images come from: a list of sources, asked one after the other until one has the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from firekiln.build.events import Completed, Events, Failed, Started
from firekiln.errors import FirekilnError, ImageNotFoundError
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.store import Store, StoredImage


class ImageSource(Protocol):
    """One place that images come from. What it finds is in the store afterwards."""

    def resolve(self, reference: str, platform: Platform) -> StoredImage | None:
        """The image of a normalised reference; None where this source does not have it."""
        ...


class StoreSource:
    """The images that are there."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def resolve(self, reference: str, platform: Platform) -> StoredImage | None:
        return self._store.images.find(reference, platform)


class Resolver:
    """Answers with images, each reference asked for once, and says so as it goes."""

    def __init__(self, sources: Sequence[ImageSource], events: Events) -> None:
        self._sources = tuple(sources)
        self._events = events
        self._known: dict[tuple[str, Platform], StoredImage] = {}

    def resolve(self, reference: str, platform: Platform) -> StoredImage:
        """The first source's answer. ImageNotFoundError, in Docker's words, where none has the image."""
        known = self._known.get((reference, platform))
        if known is not None:
            return known
        task = self._events.task(f"[internal] load metadata for {reference}")
        self._events.emit(Started(task=task))
        try:
            image = self._ask(reference, platform)
        except FirekilnError as error:
            self._events.emit(Failed(task=task, message=error.message))
            raise
        self._events.emit(Completed(task=task))
        self._known[reference, platform] = image
        return image

    def _ask(self, reference: str, platform: Platform) -> StoredImage:
        for source in self._sources:
            image = source.resolve(reference, platform)
            if image is not None:
                return image
        raise ImageNotFoundError(
            f"{reference}: failed to resolve source metadata for {reference}: not found for {platform}",
            hint=f"`firekiln images` lists what is there; `firekiln build -t {Reference.parse(reference).familiar}` or "
            "`firekiln base create` makes an image",
        )
