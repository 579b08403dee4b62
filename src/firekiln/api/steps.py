"""Where RUN steps run: in namespaces of this host, or in machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firekiln.sandbox import NamespaceRunner
from firekiln.store import Store

if TYPE_CHECKING:
    from firekiln.machine.isolation import VmRunner


def clean(store: Store) -> None:
    """After pruning, as an ordinary user: remove the files of other owners that belonged to what is gone."""
    with namespaces(store, None) as runner:
        runner.clean(list(store.temporary.folder.iterdir()))


def machines(store: Store, processes: int | None) -> VmRunner:
    """A Runner that boots machines; `processes` is the most of each step."""
    from firekiln.machine.isolation import VmRunner  # noqa: PLC0415 - most builds run in namespaces

    return VmRunner(store, processes=processes)


def namespaces(store: Store, processes: int | None) -> NamespaceRunner:
    """A Runner that keeps its files in the store; `processes` is the most of all steps together."""
    return NamespaceRunner(
        store.temporary.folder,
        processes=processes,
        snapshots=store.snapshots,
        layers=store.blobs.folder,
        temporary=store.temporary.parent,
    )
