"""`export`: an image as a file of another format, or in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from firekiln.api.images import BuildResult, ensure_image, parse_platform
from firekiln.machine.export import Exported, Output, Request, parse_output
from firekiln.machine.export import export as write
from firekiln.store import Store

if TYPE_CHECKING:
    from firekiln.build.events import Subscriber


def export(
    image: str | BuildResult,
    output: str | Output,
    *,
    kernel: str | Path | None = None,
    platform: str | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
    on_notice: Callable[[str], None] = lambda _: None,
    on_event: Subscriber | None = None,
    store: Store | str | Path | None = None,
) -> Exported:
    """Write an image as a file of another format, or into a folder.

    output       as Docker's `-o`: "type=ext4,dest=web.ext4,size=+500M", a folder, or a value of
                 `firekiln.machine.export`
    kernel       the file of the kernel that boots it; None is the store's
    on_progress  is called with bytes done and all bytes (or None), by another thread, after the first second
    on_notice    is told in a line what is not as one may expect

    Nothing is left of an export that fails; a FirekilnError says why.
    """
    wanted = parse_output(output) if isinstance(output, str) else output
    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        name = image.digest if isinstance(image, BuildResult) else image
        wished = parse_platform(platform)
        found = opened.images.get(name, wished) if wished else ensure_image(opened, name, on_event=on_event)
        request = Request(
            image=found,
            output=wanted,
            kernel=Path(kernel) if kernel is not None else None,
            progress=on_progress,
            notice=on_notice,
        )
        return write(opened, request)
