"""Base images from Docker Engine: `--engine-images`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Final

from firekiln.build.events import Events
from firekiln.build.sources import ingested
from firekiln.errors import ImageFormatError
from firekiln.oci import digest as digests
from firekiln.oci.blobsource import BlobSource
from firekiln.oci.dockerarchive import open_archive
from firekiln.oci.engine import DockerEngine, EngineImage
from firekiln.oci.layout import RemoteImage, parse_image
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.rootfs import tar
from firekiln.rootfs.stream import Chunks
from firekiln.store import Store, StoredImage
from firekiln.store.durable import store_errors
from firekiln.store.ingest import chain_id, find_chain

_CONFIGS: Final = "engine-images"
"""The store's cache folder of the configs of images that were taken over, by their ids."""


class EngineSource:
    """The images of an engine. They get no name in the store: what they are called is the engine's business."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events

    def resolve(self, reference: str, platform: Platform) -> StoredImage | None:
        """None where the engine has no such image for that platform. EngineError; MissingProgramError."""
        if "://" in reference:
            return None
        name = Reference.parse(reference).familiar
        with DockerEngine.connect() as engine:
            found = engine.find(name)
            if found is None or found.platform != platform:
                return None
            known = self._known(found)
            if known is not None:
                return known
            with self._events.running(f"[internal] load {name} from Docker Engine"):
                with engine_archive(self._store, engine, name, platform) as (source, remote):
                    made = ingested(self._store, source, remote)
                self._remember(remote)
                return made

    def _known(self, found: EngineImage) -> StoredImage | None:
        """What was taken over before, if its layers are still there: then nothing has to be saved."""
        path = self._store.cache_folder(_CONFIGS) / digests.encoded(found.id)
        with store_errors(path, "cannot read"):
            config = path.read_bytes() if path.exists() else b""
        chains = list(accumulate(found.diff_ids, chain_id))
        layers = find_chain(self._store, chains[-1]) if chains else ()
        if layers is None or digests.of(config) != found.id:
            return None
        image = parse_image(config, digest=found.id, layers=len(layers), name="docker engine")
        return StoredImage(digest=found.id, config_digest=found.id, references=(), image=image, layers=layers)

    def _remember(self, remote: RemoteImage) -> None:
        path = self._store.cache_folder(_CONFIGS) / digests.encoded(remote.manifest.config.digest)
        with store_errors(path, "cannot write"):
            path.write_bytes(remote.config)


@contextmanager
def engine_archive(
    store: Store, engine: DockerEngine, name: str, platform: Platform
) -> Iterator[tuple[BlobSource, RemoteImage]]:
    """An image of an engine, saved to a file that is gone at the end. EngineError, ImageFormatError, RootfsError."""
    shown = f"docker engine: {name}"
    with store.blobs.spool() as path:
        with store_errors(path, "cannot write"):
            tree = tar.read(Chunks(engine.save(name)), spool=path, name=shown)
        source = open_archive(tree, name=shown)
        images = source.images(platform)
        if len(images) != 1:
            raise ImageFormatError(f"{shown}: {len(images)} images came instead of one")
        yield source, images[0].remote
