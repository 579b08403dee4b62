"""The store: blobs, layers, images, results of build steps, locks, leases, garbage collection.

What is exported is imported when it is first used: a machine's supervisor, which waits for days, needs next to nothing.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # typing's; type checkers know it by its name

if TYPE_CHECKING:
    from typing import Any

    from firekiln.store.blobs import Blob
    from firekiln.store.images import Removed, StoredImage
    from firekiln.store.index import Result
    from firekiln.store.layers import Layer
    from firekiln.store.locks import Lock
    from firekiln.store.paths import store_root
    from firekiln.store.store import Store

__all__ = ["Blob", "Layer", "Lock", "Removed", "Result", "Store", "StoredImage", "store_root"]

_HOMES = {
    "Blob": "blobs",
    "Layer": "layers",
    "Lock": "locks",
    "Removed": "images",
    "Result": "index",
    "Store": "store",
    "StoredImage": "images",
    "store_root": "paths",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'firekiln.store' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"firekiln.store.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
