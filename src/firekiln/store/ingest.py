"""Layers of others into the store: a tar (plain, gzip, zstd) or an EROFS file becomes a layer, or nothing at all.

Two moves, so that downloads may overlap: `spool_layer` brings the bytes to the disk and verifies what they are said to
be (the descriptor's size and digest; the config's diff_id), `commit_layer` makes of them a layer of the store. Nothing
bears a name in the store before it is verified.

An EROFS file that somebody else sends is not taken as it is: the kernel would mount whatever it says. It is read and
written again, and has to come out the same, byte for byte: what our writer makes of a Tree is the only form there is.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from firekiln.errors import ImageFormatError
from firekiln.oci.blobsource import BlobSource, Verified
from firekiln.oci.manifest import MEDIA_TYPE_LAYER_EROFS, Descriptor
from firekiln.store.durable import store_errors
from firekiln.store.index import Result
from firekiln.store.layers import Layer
from firekiln.store.locks import named
from firekiln.store.store import Store
from firekiln.values import dataclass

if TYPE_CHECKING:
    from firekiln.oci.layout import RemoteImage
    from firekiln.rootfs.compression import Readable

MAX_LAYER: Final = 1 << 40
"""Bytes that a layer may grow to when decompressed."""
_AT_ONCE: Final = 3
"""Layers fetched at the same time: Docker's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledLayer:
    """A verified layer in a temporary file, decompressed: `diff_id` is the digest of what lies at `path`."""

    path: Path
    diff_id: str
    erofs: bool
    name: str


@contextmanager
def spool_layer(store: Store, source: BlobSource, descriptor: Descriptor, diff_id: str) -> Iterator[SpooledLayer]:
    """Read one layer to the disk; its file is gone at the end of the context.

    ImageFormatError where size, digest or diff_id are others than said; RootfsError where the stream is damaged.
    """
    from firekiln.rootfs.compression import decompress  # noqa: PLC0415 - its codecs take 20 ms to import

    with store.blobs.spool() as path, source.open(descriptor) as stream:
        verified = Verified(stream, descriptor, name=source.name)
        with store_errors(path, "cannot write"):
            written = decompress(verified, path, limit=MAX_LAYER, name=f"{source.name}: {descriptor.digest}")
        verified.finish()
        if written.digest != diff_id:
            raise ImageFormatError(
                f"{source.name}: the layer {descriptor.digest} is, unpacked, {written.digest}, not {diff_id}"
            )
        erofs = descriptor.media_type.startswith(MEDIA_TYPE_LAYER_EROFS)
        yield SpooledLayer(path=path, diff_id=diff_id, erofs=erofs, name=source.name)


def commit_layer(store: Store, spooled: SpooledLayer, below: Sequence[Layer] = ()) -> Layer:
    """Make a layer of the store. `below` are the layers under it: directories that a tar only implies are theirs.

    ImageFormatError or RootfsError where the content is malformed or hostile.
    """
    if spooled.erofs:
        return _commit_erofs(store, spooled)
    from firekiln.rootfs import tar  # noqa: PLC0415 - few images are of tars
    from firekiln.rootfs.algorithm import Compression, detect  # noqa: PLC0415 - as above

    with spooled.path.open("rb") as file:
        if detect(file.read(6)) is not Compression.NONE:
            raise ImageFormatError(f"{spooled.name}: the layer {spooled.diff_id} is no tar")
    tree = tar.read(
        spooled.path,
        whiteouts=True,
        below=store.layers.merged(below) if below else None,
        name=f"{spooled.name}: {spooled.diff_id}",
    )
    layer = store.layers.commit(tree)
    store.layers.record_diff_id(layer, spooled.diff_id)
    return layer


def ingest_image(
    store: Store, source: BlobSource, remote: RemoteImage, *, moved: Callable[[Descriptor, int], None] = lambda *_: None
) -> tuple[Layer, ...]:
    """All layers of an image, lowest first; those that were ingested before, on the same layers, are found again.

    What is missing is fetched side by side and committed in order; `moved`, called from any thread, is told of bytes
    that came, and may raise to end it all.
    """
    chains = tuple(accumulate(remote.image.diff_ids, chain_id))
    if not chains:
        return ()
    # Two builds that want the same image ingest it once.
    with store.locks.acquire(named(chains[-1])):
        known = next((number for number in range(len(chains), 0, -1) if find_chain(store, chains[number - 1])), 0)
        layers = (find_chain(store, chains[known - 1]) or ()) if known else ()
        wanted = list(zip(remote.manifest.layers, remote.image.diff_ids, strict=True))[known:]
        with _Spools(store, source, moved) as spools:
            for chain, future in zip(chains[known:], [spools.begin(*item) for item in wanted], strict=True):
                with future.result() as spooled:
                    layers = (*layers, commit_layer(store, spooled, layers))
                record_chain(store, chain, layers)
    return layers


class _Spools:
    """Layers being fetched. Leaving the context ends those that still are, and removes what nobody took."""

    def __init__(self, store: Store, source: BlobSource, moved: Callable[[Descriptor, int], None]) -> None:
        self._store = store
        self._source = source
        self._moved = moved
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="firekiln-fetch")
        self._futures: list[Future[_Spool]] = []

    def begin(self, descriptor: Descriptor, diff_id: str) -> Future[_Spool]:
        self._futures.append(self._pool.submit(self._fetch, descriptor, diff_id))
        return self._futures[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._pool.shutdown(cancel_futures=True)
        for future in self._futures:
            if not future.cancelled() and future.exception() is None:
                future.result().close()

    def _fetch(self, descriptor: Descriptor, diff_id: str) -> _Spool:
        for attempt in (1, 2):
            try:
                return _Spool(spool_layer(self._store, self, descriptor, diff_id))
            except ImageFormatError:
                if attempt == 2 or self._over.is_set():
                    raise  # what is wrong twice was not a passing damage
        raise AssertionError

    # A BlobSource that tells of what it reads.

    @property
    def name(self) -> str:
        return self._source.name

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[Readable]:
        with self._source.open(descriptor) as stream:
            yield _Told(stream, partial(self._tell, descriptor))

    def _tell(self, descriptor: Descriptor, count: int) -> None:
        if self._over.is_set():
            raise ImageFormatError(f"{self.name}: given up")  # nobody sees it: the error that ended it all is raised
        self._moved(descriptor, count)


class _Spool:
    """A spooled layer that one thread opened and another closes, once."""

    def __init__(self, context: AbstractContextManager[SpooledLayer]) -> None:
        self._stack = ExitStack()
        self._layer = self._stack.enter_context(context)

    def __enter__(self) -> SpooledLayer:
        return self._layer

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()


class _Told:
    """A stream that tells how much was read."""

    def __init__(self, stream: Readable, tell: Callable[[int], None]) -> None:
        self._stream = stream
        self._tell = tell

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._tell(len(data))
        return data


def chain_id(below: str, diff_id: str) -> str:
    """OCI's ChainID (image-spec, config.md) of a layer on the stack whose ChainID is `below`, "" for none."""
    return f"sha256:{hashlib.sha256(f'{below} {diff_id}'.encode()).hexdigest()}" if below else diff_id


def find_chain(store: Store, chain: str) -> tuple[Layer, ...] | None:
    """The layers that were ingested as the stack with that ChainID, if all are there still."""
    result = store.index.result(_key(chain))
    found = [store.layers.find(digest) for digest in result.layers] if result is not None else [None]
    layers = tuple(layer for layer in found if layer is not None)
    return layers if len(layers) == len(found) else None


def record_chain(store: Store, chain: str, layers: Sequence[Layer]) -> None:
    """Remember what a stack became: a result like a build step's, kept and pruned like those."""
    digests = tuple(layer.digest for layer in layers)
    store.index.record({_key(chain): Result(chain="", layers=digests, created="")})


def _commit_erofs(store: Store, spooled: SpooledLayer) -> Layer:
    with store.blobs.spool() as path:
        from firekiln.rootfs import erofs  # noqa: PLC0415 - few images are made of EROFS files elsewhere

        with store_errors(path, "cannot write"):
            written = erofs.write(erofs.read(spooled.path), path)
        if written.digest != spooled.diff_id:
            raise ImageFormatError(f"{spooled.name}: the layer {spooled.diff_id} was not written by firekiln")
        blob = store.blobs.adopt(path, written.digest)
    return Layer(digest=blob.digest, size=blob.size, path=blob.path)


def _key(chain: str) -> str:
    return f"ingested {chain}"
