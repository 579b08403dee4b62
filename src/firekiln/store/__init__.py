"""The store: blobs, layers, images, results of build steps, locks, leases, garbage collection."""

from firekiln.store.blobs import Blob
from firekiln.store.images import Removed, StoredImage
from firekiln.store.index import Result
from firekiln.store.layers import Layer
from firekiln.store.locks import Lock
from firekiln.store.paths import store_root
from firekiln.store.store import Store

__all__ = ["Blob", "Layer", "Lock", "Removed", "Result", "Store", "StoredImage", "store_root"]
