"""The drives of a machine: its image's layers, read-only as they lie in the store, and a scratch drive of its own."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from firekiln.errors import MachineError
from firekiln.machine.vmm.spec import LAYER_DRIVES, MIB
from firekiln.rootfs import ext4
from firekiln.store import Layer, Result, Store
from firekiln.store.durable import store_errors
from firekiln.store.locks import named

_SMALLEST_DISK = 32 * MIB


def layer_drives(store: Store, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers as at most LAYER_DRIVES: of more, the lowest are merged into one, which the store keeps for others.

    What the merged layers show is the same: their whiteouts have nothing below to hide. DamagedError where one of them
    is missing or damaged.
    """
    checked = store.layers.checked(layers)
    if len(checked) <= LAYER_DRIVES:
        return checked
    count = len(checked) - LAYER_DRIVES + 1
    return (_merged(store, checked[:count]), *checked[count:])


def make_scratch(path: Path, size: int) -> None:
    """Make an empty ext4 file system of `size` bytes at `path`: a new sparse file, mode 0600, of 200 KiB at first.

    It has a journal: a machine may end without a word. MachineError where it is too small, StoreError where the disk is
    full.
    """
    if size < _SMALLEST_DISK:
        raise MachineError(f"a disk of {size} bytes is too small", hint="--disk-size takes 32m at least")
    with store_errors(path, "cannot make the scratch drive"), path.open("x+b") as file:
        os.fchmod(file.fileno(), 0o600)
        ext4.empty(file.fileno(), size, journal=True)


def _merged(store: Store, layers: Sequence[Layer]) -> Layer:
    key = "merged " + hashlib.sha256(" ".join(layer.digest for layer in layers).encode()).hexdigest()
    with store.locks.acquire(named(key)):
        known = store.index.result(key)
        found = store.layers.find(known.layers[0]) if known else None
        if found is not None:
            store.index.touch([key])
        else:
            found = store.layers.commit(store.layers.merged(layers))
            created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            store.index.record({key: Result(chain=key, layers=(found.digest,), created=created)})
        return found
