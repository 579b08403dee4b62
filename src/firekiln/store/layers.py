"""Layers: one EROFS file each, a blob like any other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from firekiln.errors import DamagedError
from firekiln.rootfs.tree import Tree
from firekiln.store.blobs import AGAIN, Blob, Blobs
from firekiln.store.durable import is_full, store_error, store_errors
from firekiln.store.index import Index
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One immutable EROFS file: the digest and size (bytes) of its content, and where it lies now."""

    digest: str
    size: int
    path: Path


class Layers:
    """The layers of one store."""

    def __init__(self, blobs: Blobs, index: Index) -> None:
        self._blobs = blobs
        self._index = index

    def commit(self, tree: Tree) -> Layer:
        """Write a Tree (whiteouts and opaque directories kept) as a layer; the same Tree gives the same layer.

        On return it is on the disk. RootfsError where EROFS can't hold the Tree.
        """
        with self._blobs.spool() as path:
            layer = write_layer(tree, path)
            return _layer(self._blobs.adopt(path, layer.digest))

    def get(self, digest: str) -> Layer:
        """DamagedError where the store lacks it, or what it had was damaged."""
        layer = self.find(digest)
        if layer is None:
            raise DamagedError(f"the store lacks the layer {digest}", hint=AGAIN)
        return layer

    def find(self, digest: str) -> Layer | None:
        """None where the store lacks it; a damaged one is set aside first (see `Integrity`)."""
        blob = self._blobs.intact(digest)
        return _layer(blob) if blob else None

    def described(self, digest: str, size: int) -> Layer:
        """The layer of a manifest's descriptor, which may be missing."""
        return Layer(digest=digest, size=size, path=self._blobs.path(digest))

    def checked(self, layers: Iterable[Layer]) -> tuple[Layer, ...]:
        """The layers, there and intact: for whoever uses an image's. DamagedError."""
        return tuple(self.get(layer.digest) if self._is_kept(layer) else layer for layer in layers)

    def tree(self, layer: Layer) -> Tree:
        """The layer's content, lazily. DamagedError where it is not what its digest says."""
        from firekiln.rootfs import erofs  # noqa: PLC0415 - listing images must not wait for the reader

        self.checked((layer,))
        with store_errors(layer.path, "cannot read the layer"):
            return erofs.read(layer.path)

    def merged(self, layers: Sequence[Layer]) -> Tree:
        """What a stack of layers, lowest first, shows, lazily."""
        from firekiln.rootfs.merge import merge  # noqa: PLC0415 - as above

        return merge([self.tree(layer) for layer in layers])

    def _is_kept(self, layer: Layer) -> bool:
        """Whether it lies in its final place: what a running build has staged, it has just written itself."""
        return layer.path == self._blobs.path(layer.digest)

    def diff_id(self, layer: Layer) -> str | None:
        """The digest of the layer's canonical tar, if it was ever made, or of the tar that the layer was made from."""
        return self._index.diff_id(layer.digest)

    def record_diff_id(self, layer: Layer, diff_id: str) -> None:
        """Remember which tar a layer was made from, or into which it was turned."""
        self._index.record_diff_id(layer.digest, diff_id)


def write_layer(tree: Tree, path: Path) -> Layer:
    """Write a Tree to a new file, which is neither fsynced nor bears its final name.

    StoreError where the disk is full; other OSErrors are those of the Tree's sources.
    """
    from firekiln.rootfs import erofs  # noqa: PLC0415 - a fully cached build needs no writer

    try:
        written = erofs.write(tree, path)
    except OSError as error:
        if is_full(error):
            raise store_error(error, path, "cannot write the layer") from error
        raise
    return Layer(digest=written.digest, size=written.size, path=path)


def _layer(blob: Blob) -> Layer:
    return Layer(digest=blob.digest, size=blob.size, path=blob.path)
