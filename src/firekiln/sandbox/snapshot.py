"""Layers as directories: the lower sides of overlays in user namespaces, where the kernel mounts no EROFS file.

    FOLDER/BOOT/NAME            a whole layer: NAME is its file's, the digest of what it holds
    FOLDER/BOOT/NAME.partial    one being written, locked (flock(2)) by who does so

BOOT is the kernel's boot id: nothing is flushed to the disk, so nothing is believed after a crash of the host. What is
in such a folder has owners that only a user namespace can remove; `sweep` does, for all that nobody can use any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from typing import Final

from firekiln.rootfs import erofs
from firekiln.sandbox import leftovers
from firekiln.sandbox.leftovers import PREFIX, remove_unlocked
from firekiln.sandbox.materialize import materialize

_BOOT: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_PARTIAL: Final = ".partial"


def boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def snapshot(layer: str, folder: str) -> tuple[str, int]:
    """The directory that holds what the EROFS file `layer` does, made where it is missing, and a descriptor that keeps
    it: whoever has that (or a copy) is using it.

    A file whose name is no digest is taken for another each time. OSError, RootfsError, SandboxError.
    """
    name = os.path.basename(layer)
    if not _DIGEST.fullmatch(name):
        name = secrets.token_hex(8)
    parent = os.path.join(folder, boot())
    with contextlib.suppress(FileExistsError):
        os.mkdir(parent, 0o700)
    place = os.path.join(parent, name)
    while (held := _taken(place)) is None:
        _make(layer, place)
    return os.path.join(place, "root"), held


def sweep(folder: str, layers: str, temporary: str) -> None:
    """Remove what nobody uses: other boots' snapshots, what killed processes left there or in `temporary` (in folders
    that they locked), and the snapshots of layers that are not (or no longer) in the folder `layers`.
    """
    now = boot()
    for name in _names(temporary):
        remove_unlocked(os.path.join(temporary, name))
    leftovers.sweep(folder)
    for name in _names(folder):
        if _BOOT.fullmatch(name) and name != now:
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
    for name in _names(os.path.join(folder, now)):
        path = os.path.join(folder, now, name)
        if name.endswith(_PARTIAL):
            remove_unlocked(path)
        elif not os.path.exists(os.path.join(layers, name)):
            _discard(path, folder)


def _taken(place: str) -> int | None:
    """A descriptor of the snapshot at `place`, locked against `sweep`. None where there is no snapshot."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(fd, fcntl.LOCK_SH)
    if _is(place, fd):
        return fd
    os.close(fd)
    return None


def _make(layer: str, place: str) -> None:
    """Write the snapshot, or wait for who is writing it."""
    with _owned(f"{place}{_PARTIAL}") as fd:
        if fd is None or os.path.isdir(place):
            return
        _empty(fd)
        os.mkdir("root", 0o700, dir_fd=fd)
        target = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            materialize(erofs.read(layer), target, overlay=True)
        finally:
            os.close(target)
        os.rename(f"{place}{_PARTIAL}", place)


def _discard(place: str, folder: str) -> None:
    """Remove a snapshot unless somebody uses it. It loses its name first: no half of it is ever taken for a whole."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as held:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        held.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        nameless = os.path.join(folder, f"{PREFIX}{secrets.token_hex(8)}")
        os.rename(place, nameless)
        shutil.rmtree(nameless, ignore_errors=True)


@contextlib.contextmanager
def _owned(path: str) -> Iterator[int | None]:
    """The folder at `path`, made where it is missing, ours alone as long as this lasts. None where it went away.

    Whoever made one before and still writes to it is waited for. A failure leaves nothing.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd if _is(path, fd) else None
    finally:
        if _is(path, fd):
            shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def _is(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _empty(fd: int) -> None:
    for name in os.listdir(fd):
        shutil.rmtree(name, dir_fd=fd)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
