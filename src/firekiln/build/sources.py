"""Where base images come from: a list of sources, asked one after the other until one has the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from firekiln.build.events import Completed, Events, Failed, Output, Started, Task
from firekiln.errors import DamagedError, FirekilnError, ImageNotFoundError, RegistryError
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.store import Store, StoredImage
from firekiln.store.locks import named

if TYPE_CHECKING:
    from firekiln.oci.blobsource import BlobSource
    from firekiln.oci.layout import RemoteImage

LAYOUT: Final = "oci-layout://"


class ImageSource(Protocol):
    """One place that images come from. What it finds is in the store afterwards."""

    def resolve(self, reference: str, platform: Platform) -> StoredImage | None:
        """The image of a normalised reference; None where this source does not have it."""
        ...


class StoreSource:
    """The images that are there. DamagedError for one that is, but can't be used."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def resolve(self, reference: str, platform: Platform) -> StoredImage | None:
        found = self._store.images.find(reference, platform)
        return self._store.images.checked(found) if found is not None else None


class LayoutSource:
    """Images of OCI layouts on the host, which `--build-context NAME=oci-layout://PATH` names."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def resolve(self, reference: str, platform: Platform) -> StoredImage | None:
        """It gets no name in the store. ImageFormatError where it is damaged, ImageNotFoundError where it isn't."""
        if not reference.startswith(LAYOUT):
            return None
        from firekiln.oci.layout import Layout, read_image, split_reference  # noqa: PLC0415 - most bases are in the store
        from firekiln.rootfs import directory  # noqa: PLC0415 - as above

        whole = reference.removeprefix(LAYOUT)
        path, wanted = (whole, "") if Path(whole).is_dir() else split_reference(whole)
        layout = Layout(directory.read(path), name=path)
        remote = read_image(layout, layout.find(wanted), platform)
        return ingested(self._store, layout, remote)


def ingested(store: Store, source: BlobSource, remote: RemoteImage) -> StoredImage:
    """An image whose layers are brought into the store; it gets no name there. As `ingest_image`."""
    from firekiln.store.ingest import ingest_image  # noqa: PLC0415 - most bases are in the store

    return StoredImage(
        digest=remote.descriptor.digest,
        config_digest=remote.manifest.config.digest,
        references=(),
        image=remote.image,
        layers=ingest_image(store, source, remote),
    )


class BootstrapSource:
    """Base systems made of a distribution's packages, for the references that `bootstrap` knows."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events

    def resolve(self, reference: str, platform: Platform) -> StoredImage | None:
        from firekiln.build import bootstrap  # noqa: PLC0415 - most builds find their base in the store

        if not bootstrap.is_known(reference):
            return None
        before = self._intact(reference, platform)
        task = self._events.task(f"[internal] bootstrap {reference} from its distribution's packages")
        # Two builds that want the same base make it once.
        with self._store.locks.acquire(named(f"bootstrap {reference} {platform}")):
            made = self._intact(reference, platform)
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

    def _intact(self, reference: str, platform: Platform) -> StoredImage | None:
        """The image that the store has, unless it is damaged: then it is made anew."""
        try:
            return StoreSource(self._store).resolve(reference, platform)
        except DamagedError:
            return None

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
        name = reference if "://" in reference else Reference.parse(reference).familiar
        unreached: RegistryError | None = None
        for source in self._sources:
            try:
                image = source.resolve(reference, platform)
            except DamagedError as error:  # what others have under that name may be another image
                raise DamagedError(
                    f"the image {name} is damaged: {error.message}",
                    hint=f"build or pull {name} again, or have it fetched anew after `firekiln rmi {name}`",
                ) from error
            except RegistryError as error:  # without a network there are other ways to some bases
                unreached = error
                continue
            if image is not None:
                return image
        if unreached is not None:
            raise ImageNotFoundError(
                f"{name}: failed to resolve source metadata for {reference}: {unreached.message}", hint=unreached.hint
            )
        raise ImageNotFoundError(
            f"{name}: failed to resolve source metadata for {reference}: not found for {platform}",
            hint=f"`firekiln images` lists what is there, `firekiln base ls` what can be made; "
            f"`firekiln build -t {name}` builds it",
        )
