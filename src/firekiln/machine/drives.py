"""The drives of a machine: its image's layers, read-only as they lie in the store, and a scratch drive of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from firekiln.errors import MachineError, MissingProgramError
from firekiln.machine.spec import LAYER_DRIVES, MIB
from firekiln.store import Layer, Result, Store
from firekiln.store.durable import store_errors
from firekiln.store.locks import named

_SYSTEM_PATH = "/usr/sbin:/sbin"
"""Where mke2fs lies, and where an ordinary user's PATH does not look."""

_SMALLEST_DISK = 32 * MIB


def layer_drives(store: Store, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers as at most LAYER_DRIVES: of more, the lowest are merged into one, which the store keeps for others.

    What the merged layers show is the same: their whiteouts have nothing below to hide.
    """
    if len(layers) <= LAYER_DRIVES:
        return tuple(layers)
    count = len(layers) - LAYER_DRIVES + 1
    return (_merged(store, layers[:count]), *layers[count:])


def make_scratch(path: Path, size: int) -> None:
    """Make an empty ext4 file system of `size` bytes at `path`, a sparse file that takes 20 MB at first.

    MachineError where it cannot be made, StoreError where the disk is full. mke2fs does it in 15 ms.
    """
    if size < _SMALLEST_DISK:
        raise MachineError(f"a disk of {size} bytes is too small", hint="--disk-size takes 32m at least")
    program = shutil.which("mke2fs", path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}")
    if program is None:
        raise MissingProgramError("mke2fs is not on this host", hint="apt-get install e2fsprogs")
    with store_errors(path, "cannot make the scratch drive"), path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.truncate(size)
    # The file reads as zeros where nothing was written, and mke2fs knows (discard): it leaves the inode tables as
    # holes and marks them as zeroed, so that the guest's kernel does not write them either.
    options = ["-q", "-F", "-t", "ext4", "-m", "0", "-J", "size=16", "-E", "lazy_itable_init=0,discard"]
    done = subprocess.run([program, *options, str(path)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise MachineError(f"{path}: mke2fs cannot make the scratch drive: {reason}")


def _merged(store: Store, layers: Sequence[Layer]) -> Layer:
    key = "merged " + hashlib.sha256(" ".join(layer.digest for layer in layers).encode()).hexdigest()
    with store.using_blobs(), store.locks.acquire(named(key)):
        known = store.index.result(key)
        found = store.layers.find(known.layers[0]) if known else None
        if found is None:
            found = store.layers.commit(store.layers.merged(layers))
            created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            store.index.record({key: Result(chain=key, layers=(found.digest,), created=created)})
        return found
