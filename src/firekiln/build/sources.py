"""Where base images come from: a list of sources, asked one after the other until one has the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from firekiln.build.events import Completed, Events, Failed, Output, Started, Task
from firekiln.errors import FirekilnError, ImageNotFoundError
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.store import Store, StoredImage
from firekiln.store.locks import named


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


class BootstrapSource:
    """Base systems made of a distribution's packages, for the references that `bootstrap` knows."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events

    def resolve(self, reference: str, platform: Platform) -> StoredImage | None:
        from firekiln.build import bootstrap  # noqa: PLC0415 - most builds find their base in the store

        if not bootstrap.is_known(reference):
            return None
        before = self._store.images.find(reference, platform)
        task = self._events.task(f"[internal] bootstrap {reference} from its distribution's packages")
        # Two builds that want the same base make it once.
        with self._store.locks.acquire(named(f"bootstrap {reference} {platform}")):
            made = self._store.images.find(reference, platform)
            if made is not None and (before is None or made.digest != before.digest):
                return made
            self._events.emit(Started(task=task))
            try:
                made = self._bootstrap(reference, platform, task)
            except FirekilnError as error:
                self._events.emit(Failed(task=task, message=error.message))
                raise
            self._events.emit(Completed(task=task))
            return made

    def _bootstrap(self, reference: str, platform: Platform, task: Task) -> StoredImage:
        from firekiln.build import bootstrap  # noqa: PLC0415 - as above

        def progress(line: str) -> None:
            self._events.emit(Output(task=task, fd=2, data=f"{line}\n".encode(errors="surrogateescape")))

        with bootstrap.bootstrap(reference, platform, self._store.temporary.folder, progress) as (tree, image):
            layer = self._store.layers.commit(tree)
        return self._store.images.put(replace(image, diff_ids=(layer.digest,)), [layer], references=[reference])


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
        name = Reference.parse(reference).familiar
        raise ImageNotFoundError(
            f"{name}: failed to resolve source metadata for {reference}: not found for {platform}",
            hint=f"`firekiln images` lists what is there, `firekiln base ls` what can be made; "
            f"`firekiln build -t {name}` builds it",
        )
