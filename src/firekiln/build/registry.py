"""Base images from registries."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from firekiln.build.events import Events, Status, Task
from firekiln.errors import ImageNotFoundError
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.store import Store, StoredImage
from firekiln.store.paths import config_file

if TYPE_CHECKING:
    from firekiln.oci.credentials import CredentialSource
    from firekiln.oci.registry import Repository


class RegistrySource:
    """Images of the registries that references name. RegistryError where one can't be reached, or refuses."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events

    def resolve(self, reference: str, platform: Platform) -> StoredImage | None:
        """None where the registry has no such image, or may not be asked."""
        from firekiln.oci.registry import Network  # noqa: PLC0415 - most builds find their base in the store
        from firekiln.store.transfer import pull  # noqa: PLC0415 - ditto

        name = Reference.parse(reference)
        if Network.read(config_file()).blocks(name.registry):
            return None
        with open_repository(name) as repository, self._events.running(f"[internal] pull {reference}") as task:
            try:
                return pull(self._store, repository, platform, moved=moved_status(self._events, task)).image
            except ImageNotFoundError:
                return None


def open_repository(reference: Reference, credentials: CredentialSource | None = None) -> Repository:
    """The repository of a reference, reached as the user's configuration says, with the user's credentials."""
    from firekiln.oci.credentials import Credentials, config_path  # noqa: PLC0415 - imported where a registry is asked
    from firekiln.oci.registry import Network, Repository  # noqa: PLC0415 - ditto

    return Repository(reference, Network.read(config_file()), credentials or Credentials(config_path()))


def moved_status(events: Events, task: Task) -> Callable[[str, int, int], None]:
    """What `transfer` is to call with a blob's digest, bytes that moved, and its size: it becomes a task's Status."""
    done: dict[str, int] = {}
    guard = threading.Lock()

    def moved(digest: str, count: int, size: int) -> None:
        with guard:
            current = done[digest] = done.get(digest, 0) + count
        events.emit(Status(task=task, name=digest, current=current, total=size, done=current >= size))

    return moved
