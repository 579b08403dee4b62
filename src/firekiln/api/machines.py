"""`run`: an image's process in a machine of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from firekiln.api.images import BuildResult, ensure_image
from firekiln.machine.options import RunOptions
from firekiln.machine.run import start
from firekiln.machine.vmm.spec import DEFAULT_MEMORY
from firekiln.store import Store

if TYPE_CHECKING:
    from firekiln.build.events import Subscriber
    from firekiln.machine.machine import Machine


def run(
    image: str | BuildResult,
    *args: str,
    name: str = "",
    ports: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    working_dir: str | None = None,
    entrypoint: str | None = None,
    memory: int | None = None,
    vcpus: int = 1,
    on_event: Subscriber | None = None,
    store: Store | str | Path | None = None,
) -> Machine:
    """Boot an image and start its process, with `args` in place of its CMD; returns once that runs.

    ports       as docker's `-p`: "8080:80", "127.0.0.1:5353:53/udp"
    memory      bytes
    on_event    as with `build`, for an image that has to be made first

    The machine outlives this process; used as a context manager it is ended and removed when its block is left. A
    FirekilnError says what failed, `exit_status` being Docker's 125, 126 or 127.
    """
    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        options = RunOptions(
            image=image.digest if isinstance(image, BuildResult) else image,
            args=args,
            name=name,
            publish=tuple(ports),
            env=tuple(f"{key}={value}" for key, value in (env or {}).items()),
            user=user,
            working_dir=working_dir,
            entrypoint=entrypoint,
            memory=memory or DEFAULT_MEMORY,
            vcpus=vcpus,
        )
        ensure_image(opened, options.image, on_event=on_event)
        return start(opened, options)
