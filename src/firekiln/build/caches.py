"""What earlier builds left: results of steps in the store, and those that imported caches promise.

A promised layer is fetched when it turns out to be needed; where it then is not what was promised, that cache is
dropped with a warning, as if it had never been given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from firekiln.store import Layer, Result, Store
from firekiln.values import dataclass

if TYPE_CHECKING:
    from firekiln.build.cachefile import ImportedCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A result with its layers; None where some of them are nowhere."""

    result: Result
    layers: tuple[Layer, ...] | None


class Caches:
    """The results that one build can find. `seen` are those that it found or made, by key."""

    def __init__(self, store: Store, imported: Sequence[ImportedCache], warn: Callable[[str], None]) -> None:
        self._store = store
        self._imported = list(imported)
        self._warn = warn
        self._layers: dict[str, Layer] = {}
        self._promised: dict[str, ImportedCache] = {}
        self._found: set[str] = set()
        self.seen: dict[str, Result] = {}

    def find(self, key: str) -> Found | None:
        """What is known under `key`: a result whose layers are at hand, else one whose layers are not."""
        own = self._store.index.result(key)
        results = [(own, None), *((cache.find(key), cache) for cache in tuple(self._imported))]
        found: Found | None = None
        for result, cache in results:
            if result is None or (found is not None and found.layers is not None):
                continue
            candidate = Found(result=result, layers=self._all(result.layers))
            found = candidate if found is None or candidate.layers is not None else found
            if cache is None:
                self._found.add(key)
        if found is not None:
            self.seen[key] = found.result
        return found

    def alias(self, key: str, other: str) -> None:
        """Record what `other` stands for under `key` too."""
        known = self.seen.get(other) or self._store.index.result(other)
        if known is not None:
            self.seen[key] = known
            self._store.index.record({key: known})

    def made(self, keys: Sequence[str], result: Result, layer: Layer | None) -> Layer | None:
        """Note a new result; the layer to use, which may be an equal one that was there before."""
        self.seen.update(dict.fromkeys(keys, result))
        return None if layer is None else self._layers.setdefault(layer.digest, layer)

    def prepare(self, layers: Iterable[Layer]) -> bool:
        """Fetch those of `layers` that were only promised. False where one can't be had: ask for everything again."""
        for digest in [layer.digest for layer in layers if layer.digest in self._promised]:
            cache = self._promised[digest]
            problem = cache.fetch(digest)
            if problem is not None:
                self._drop(cache, problem)
                return False
            self._promised.pop(digest, None)
        return True

    def held(self, digests: Iterable[str]) -> dict[str, Layer]:
        """Those of the layers that the store (or this build) has."""
        layers = ((digest, self._layer(digest)) for digest in digests)
        return {digest: layer for digest, layer in layers if layer is not None and digest not in self._promised}

    def told(self) -> dict[str, Result]:
        """What this build found or made, under all keys that it is known by: also those that were not asked for."""
        return {**self.seen, **self._store.index.keys_of(self.seen.values())}

    def note_used(self) -> None:
        """Tell the index which results this build found, so that pruning takes those first that nobody finds.

        Imported ones become the store's own, also where nobody needed their layers: what stands on them is found by
        them.
        """
        self._store.index.touch(self._found)
        if self._imported:
            self._store.index.record({key: item for key, item in self.seen.items() if key not in self._found})

    def _all(self, digests: Sequence[str]) -> tuple[Layer, ...] | None:
        layers = tuple(filter(None, map(self._layer, digests)))
        return layers if len(layers) == len(digests) else None

    def _layer(self, digest: str) -> Layer | None:
        layer = self._layers.get(digest) or self._store.layers.find(digest)
        for cache in self._imported if layer is None else ():
            layer = cache.layer(digest)
            if layer is not None:
                self._promised[digest] = cache
                break
        if layer is not None:
            self._layers[digest] = layer
        return layer

    def _drop(self, cache: ImportedCache, problem: str) -> None:
        self._warn(f"importing cache: {problem}")
        if cache in self._imported:
            self._imported.remove(cache)
        for digest in [digest for digest, giver in self._promised.items() if giver is cache]:
            del self._promised[digest]
            self._layers.pop(digest, None)
