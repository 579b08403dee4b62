"""Which kernel a machine boots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from firekiln.machine.kernel import Kernel, intact_kernel, kernel_file, pull
from firekiln.machine.vmm.boards import board_of
from firekiln.store import Store


def machine_kernel(store: Store, wanted: Path | None, architecture: str, progress: Callable[[str], None]) -> Kernel:
    """The kernel in that file, else the store's own for guests of an architecture, fetched where it has to be.

    MachineError where there can be none.
    """
    board_of(architecture)
    if wanted is not None:
        return kernel_file(store.root, wanted, architecture)
    kernel = intact_kernel(store, architecture)
    if kernel is None:
        progress("the store has no kernel yet: fetching Debian's")
        kernel = pull(store.root, architecture=architecture, progress=progress)
    return kernel
