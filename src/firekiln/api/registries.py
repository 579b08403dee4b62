"""Registries: log in, pull, push."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from firekiln.api.images import BuildResult, parse_platform
from firekiln.build.events import Events, Subscriber
from firekiln.build.registry import moved_status, open_repository
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.store import Store

if TYPE_CHECKING:
    from firekiln.oci.credentials import Credential, Credentials
    from firekiln.store.transfer import Pulled, Pushed


def pull(
    reference: str,
    *,
    platform: str | None = None,
    on_event: Subscriber | None = None,
    store: Store | str | Path | None = None,
) -> Pulled:
    """Bring an image of a registry into the store; one that is there already, unchanged, moves no layer.

    The registry is reached as `config.toml` says, with the credentials of `docker login`. ImageNotFoundError,
    RegistryError, ImageFormatError.
    """
    from firekiln.store import transfer  # noqa: PLC0415 - who builds does not pull

    name = Reference.parse(reference).tagged()
    events = Events(on_event)
    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        repository = stack.enter_context(open_repository(name))
        task = stack.enter_context(events.running(f"pull {name}"))
        wanted = parse_platform(platform) or Platform.host()
        return transfer.pull(opened, repository, wanted, moved=moved_status(events, task))


def login(registry: str, credential: Credential) -> str:
    """Try a credential at a registry (`docker.io`, `localhost:5000`), and keep it as `docker login` does.

    Returns where it is kept, for people. RegistryError where the registry refuses it; then nothing is kept.
    """
    from firekiln.oci.credentials import Given  # noqa: PLC0415 - who builds does not log in

    with open_repository(Reference.parse(f"{registry}/login"), Given(credential=credential)) as repository:
        repository.check()
    return credentials().put(registry, credential)


def credentials() -> Credentials:
    """The user's credentials for registries: those of `docker login`."""
    from firekiln.oci.credentials import Credentials, config_path  # noqa: PLC0415 - as above

    return Credentials(config_path())


def push(
    reference: str,
    *,
    image: str | BuildResult | None = None,
    platform: str | None = None,
    compression: str = "gzip",
    on_event: Subscriber | None = None,
    store: Store | str | Path | None = None,
) -> Pushed:
    """Put an image of the store (None: the one of that name) into the registry that `reference` names, under it.

    compression  of layers: none, gzip or zstd

    As any container engine takes it. ImageNotFoundError where the store lacks it; RegistryError.
    """
    from firekiln.rootfs.compression import Compression  # noqa: PLC0415 - who builds does not push
    from firekiln.store import transfer  # noqa: PLC0415 - ditto

    name = Reference.parse(reference).tagged()
    events = Events(on_event)
    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        wanted = image.digest if isinstance(image, BuildResult) else image or str(name)
        found = opened.images.get(wanted, parse_platform(platform))
        repository = stack.enter_context(open_repository(name))
        task = stack.enter_context(events.running(f"push {name}"))
        moved = moved_status(events, task)
        return transfer.push(opened, repository, found, compression=Compression(compression), moved=moved)
