"""Archives of images, and tars of file systems, to and from the store: `save`, `load`, `import`.

As with registries, a saved image's config names its layers' tars, and a loaded one's the store's EROFS files: an image
that was saved here and is loaded there has the same digest in both stores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from firekiln.oci.archive import ArchivedImage, TarLayer, layout_of, make_layer
from firekiln.oci.config import History, Image
from firekiln.oci.dockerarchive import open_archive
from firekiln.oci.platform import Platform
from firekiln.rootfs import directory, tar
from firekiln.rootfs.algorithm import Compression
from firekiln.store.durable import store_errors
from firekiln.store.images import StoredImage
from firekiln.store.ingest import ingest_image
from firekiln.store.layers import Layer
from firekiln.store.store import Store
from firekiln.values import dataclass

if TYPE_CHECKING:
    from firekiln.rootfs.compression import Readable
    from firekiln.rootfs.tree import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An image that is in the store now, and the names, in full, that it was given."""

    image: StoredImage
    references: tuple[str, ...]


@contextmanager
def saved(
    store: Store,
    wanted: Sequence[tuple[StoredImage, Sequence[str]]],
    *,
    docker: bool = True,
    compression: Compression = Compression.NONE,
) -> Iterator[Iterator[bytes]]:
    """An archive of images under these names, as a stream of bytes; the same images give the same bytes.

    With `docker` it is as Docker writes it from version 25 on. Layers lie in temporary files until the context is left.
    """
    with store.using_blobs(), ExitStack() as stack:
        made: dict[str, TarLayer] = {}
        archived: list[ArchivedImage] = []
        for image, references in wanted:
            for layer in store.images.checked(image).layers:
                if layer.digest not in made:
                    path = stack.enter_context(store.blobs.spool())
                    made[layer.digest] = _tar_layer(store, layer, path, compression)
            archived.append(
                ArchivedImage(
                    image=image.image,
                    layers=[made[layer.digest] for layer in image.layers],
                    references=references,
                    annotations=image.annotations,
                )
            )
        yield tar.pieces(layout_of(archived, docker=docker))


def _tar_layer(store: Store, layer: Layer, path: Path, compression: Compression) -> TarLayer:
    with store_errors(path, "cannot write"):
        return make_layer(store.layers.tree(layer), path, compression)


def load(store: Store, archive: str | Path | Readable, platform: Platform, *, name: str = "archive") -> list[Loaded]:
    """Bring all images of an archive into the store, under their names in it.

    `archive` is an OCI image layout in a folder, or an archive of one or of `docker save`, compressed or not, as a file
    or a stream. Of an image for several platforms that for `platform` is taken. Each image is in the store wholly or
    not at all. ImageFormatError, RootfsError; ImageNotFoundError where the platform is missing.
    """
    with store.using_blobs(), _opened(store, archive, name) as (tree, shown):
        source = open_archive(tree, name=shown)
        loaded: list[Loaded] = []
        for named in source.images(platform):
            layers = ingest_image(store, source, named.remote)
            image = replace(named.remote.image, diff_ids=tuple(layer.digest for layer in layers))
            kept = store.images.put(
                image, layers, references=named.references, annotations=named.remote.manifest.annotations
            )
            loaded.append(Loaded(image=kept, references=named.references))
        return loaded


def import_root(
    store: Store,
    archive: str | Path | Readable,
    image: Image,
    *,
    reference: str | None = None,
    message: str = "",
    name: str = "archive",
) -> StoredImage:
    """Make an image of the tar of a whole file system, compressed or not: its only layer.

    `image` is its config, without layers and history. RootfsError where the tar is damaged or hostile.
    """
    with store.using_blobs(), _opened(store, archive, name) as (tree, shown):
        layer = store.layers.commit(tree)
        line = History(created_by="", created=image.created, comment=message or f"Imported from {shown}")
        document = replace(image, diff_ids=(layer.digest,), history=(line,))
        return store.images.put(document, [layer], references=[reference] if reference else [])


@contextmanager
def _opened(store: Store, archive: str | Path | Readable, name: str) -> Iterator[tuple[Tree, str]]:
    """The Tree of a folder or an archive, and what to call it; a compressed one lies unpacked until the end."""
    if not isinstance(archive, str | Path):
        with store.blobs.spool() as spool:
            with store_errors(spool, "cannot write"):
                tree = tar.read(archive, spool=spool, name=name)
            yield tree, name
        return
    path = Path(archive)
    with store.blobs.spool() as spool:
        with store_errors(path, "cannot read"):
            tree = directory.read(path) if path.is_dir() else tar.read(path, spool=spool)
        yield tree, str(path)
