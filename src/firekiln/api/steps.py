"""Where RUN steps run: in namespaces of this host."""

from __future__ import annotations

from firekiln.sandbox import NamespaceRunner
from firekiln.store import Store


def clean(store: Store) -> None:
    """After pruning, as an ordinary user: remove the files of other owners that belonged to what is gone."""
    with namespaces(store, None) as runner:
        runner.clean(list(store.temporary.folder.iterdir()))


def namespaces(store: Store, processes: int | None) -> NamespaceRunner:
    """A Runner that keeps its files in the store; `processes` is the most of all steps together."""
    return NamespaceRunner(
        store.temporary.folder,
        processes=processes,
        snapshots=store.snapshots,
        layers=store.blobs.folder,
        temporary=store.temporary.parent,
    )
