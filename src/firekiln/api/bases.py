"""Where base images come from: the store, layouts, registries, a distribution's packages."""

from __future__ import annotations

import contextlib
from pathlib import Path

from firekiln.api.images import Pull, parse_platform
from firekiln.build.events import Events, Subscriber
from firekiln.build.registry import RegistrySource
from firekiln.build.sources import BootstrapSource, ImageSource, LayoutSource, Resolver, StoreSource
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.store import Store, StoredImage


def create_base(
    reference: str,
    *,
    platform: str | None = None,
    on_event: Subscriber | None = None,
    store: Store | str | Path | None = None,
) -> StoredImage:
    """Make a base image of its distribution's packages, and keep it under `reference`.

    ImageNotFoundError where there is no recipe for it.
    """
    name = str(Reference.parse(reference).tagged())
    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        made = BootstrapSource(opened, Events(on_event)).resolve(name, parse_platform(platform) or Platform.host())
    if made is None:
        from firekiln.build.bootstrap import unknown  # noqa: PLC0415 - most are known

        raise unknown(reference)
    return made


def resolve(
    store: Store, name: str, platform: Platform, *, pull: Pull, on_event: Subscriber | None = None
) -> StoredImage:
    """The image of that name, of the first source that has it. ImageNotFoundError."""
    events = Events(on_event)
    reference = Reference.parse(name).tagged()
    return Resolver(sources(store, events, pull=pull), events).resolve(str(reference), platform)


def sources(store: Store, events: Events, *, pull: Pull, engine: bool = False) -> list[ImageSource]:
    """Where base images come from, in the order in which they are asked; `engine`: Docker Engine's are among them."""
    here: list[ImageSource] = [StoreSource(store)]
    if engine:
        from firekiln.build.engineimages import EngineSource  # noqa: PLC0415 - most builds know no engine

        here.append(EngineSource(store, events))
    elsewhere: list[ImageSource] = [RegistrySource(store, events), BootstrapSource(store, events)]
    match pull:
        case "never":
            return [LayoutSource(store), *here]
        case "missing":
            return [LayoutSource(store), *here, *elsewhere]
        case "always":
            return [LayoutSource(store), *elsewhere, *here]
