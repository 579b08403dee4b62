"""`run --warm`: the first such machine boots, and is saved once it is ready; later ones start from that.

What makes two machines one and the same is their key: image, options but for those that are a machine's own, kernel,
PID 1, VMM and processor. Whatever of it changes, the next machine boots, and is saved anew.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Final

from firekiln.errors import UsageError
from firekiln.machine.created import Created
from firekiln.machine.guest.binary import pid1_path
from firekiln.machine.options import RunOptions
from firekiln.machine.snapshot.clone import CloneOptions, clone
from firekiln.machine.snapshot.environment import environment_of
from firekiln.machine.snapshot.snapshots import Snapshot, Snapshots, UnusableError
from firekiln.machine.supervision.supervise import discard
from firekiln.store import Store
from firekiln.values import dataclass

_OWN: Final = frozenset("image name publish publish_all hostname labels auto_remove".split())
"""Options that may differ between a machine and its clones."""
_VERSION: Final = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """A machine that is ready to be started. `name` is that of the snapshot to be made of it; "": it is a clone."""

    created: Created
    name: str = ""
    key: str = ""


def warm(store: Store, options: RunOptions, *, progress: Callable[[str], None] = lambda _: None) -> Warm:
    """A clone of the snapshot that suits, or a machine that will boot, of which one is to be made.

    Raises as `create` and `clone`; UsageError for what no clone can have.
    """
    key = warm_key(store, options, progress)
    name = f"warm-{key[:24]}"
    snapshots = Snapshots(store)
    try:
        found = snapshots.find(name)
        if found is not None and found.key == key:
            return Warm(created=clone(store, found, clone_options(options)))
    except UnusableError as error:
        progress(f"{error.message}; booting in its place")
        snapshots.remove(name)
    from firekiln.machine.run import create  # noqa: PLC0415 - clones need none of it
    from firekiln.machine.snapshot.take import check_source  # noqa: PLC0415 - ditto
    from firekiln.machine.supervision.settings import Settings  # noqa: PLC0415 - ditto

    made = create(store, options, progress=progress)
    try:
        check_source(store, Settings.decode(made.record.settings))
    except UsageError as error:
        discard(made.state, made.record.id, volumes=True)
        made.lock.release()
        raise UsageError(f"--warm: {error.message}") from error
    return Warm(created=made, name=name, key=key)


def warm_key(store: Store, options: RunOptions, progress: Callable[[str], None]) -> str:
    """What all machines have in common that may be clones of one."""
    from firekiln.machine.kernel.select import machine_kernel  # noqa: PLC0415 - `--snapshot` needs none of it

    image = store.images.get(options.image, options.platform)
    kernel = machine_kernel(store, options.kernel, image.image.platform.architecture, progress)
    environment = environment_of(store, kernel.image, kernel.digest, kernel.architecture)
    pid1 = hashlib.sha256(pid1_path(kernel.architecture).read_bytes()).hexdigest()
    words = [_VERSION, image.digest, kernel.digest, pid1, environment.vmm, environment.processor]
    words.append(environment.accelerator)
    words += [f"{item.name}={getattr(options, item.name)!r}" for item in fields(options) if item.name not in _OWN]
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()


def clone_options(options: RunOptions) -> CloneOptions:
    """What of the options is a clone's own."""
    return CloneOptions(
        name=options.name,
        publish=options.publish,
        publish_all=options.publish_all,
        hostname=options.hostname,
        labels=options.labels,
        auto_remove=options.auto_remove,
    )


def from_snapshot(store: Store, snapshot: Snapshot, options: RunOptions) -> Created:
    """A clone by the options of `run`. UsageError for one that can't change what was saved."""
    plain = RunOptions(image=options.image)
    for item in fields(options):
        if item.name not in _OWN and getattr(options, item.name) != getattr(plain, item.name):
            raise UsageError(
                f"--snapshot: the machine that was saved has its own {item.name.replace('_', ' ')}",
                hint="its name, hostname, labels, ports and --rm are what a clone may have of its own",
            )
    return clone(store, snapshot, clone_options(options))


def save_when_ready(store: Store, item: Warm) -> None:
    """Have a process of its own make the snapshot, where one is to be made, once the machine is ready."""
    if not item.name:
        return
    folder = item.created.state.folder_of(item.created.record.id)
    argv = [sys.executable, "-m", "firekiln.machine.snapshot.watch"]
    argv += [str(store.root), item.created.record.id, item.name, item.key]
    with (folder / "snapshot.log").open("wb") as log:
        subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=os.sep,
            start_new_session=True,
            check=False,
        )
