"""Who may use a volume: one machine at a time, or any number that only read.

A drive is no shared file system: two guests that write to it destroy it, and one that reads what another one writes
sees nonsense. A machine's supervisor holds a byte of the store's lock file for each volume; the kernel lets go of it
when the supervisor ends, however that is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from firekiln.errors import ConflictError
from firekiln.store.locks import Lock, Locks, named


@contextmanager
def held(root: Path, used: Mapping[str, bool]) -> Iterator[None]:
    """Keep the volumes `used` (by name: whether only read) from other machines. ConflictError where one has them.

    `root` is the store's folder.
    """
    locks = Locks(root / "lock")
    with ExitStack() as stack:
        for name, read_only in sorted(used.items()):
            stack.enter_context(_take(locks, name, read_only=read_only))
        yield


def check_free(locks: Locks, used: Mapping[str, bool]) -> None:
    """ConflictError where `held` would say so now: before anything is made for a machine."""
    for name, read_only in used.items():
        _take(locks, name, read_only=read_only).release()


def volume_lock(name: str) -> int:
    """The offset in the store's lock file that stands for a volume."""
    return named(f"volume {name}")


def _take(locks: Locks, name: str, *, read_only: bool) -> Lock:
    lock = locks.try_acquire(volume_lock(name), shared=read_only)
    if lock is None:
        raise ConflictError(
            f'volume "{name}" is in use by another running machine: a drive can be written by one at a time',
            hint="stop that machine, or mount the volume read-only in all of them (NAME:/path:ro)",
        )
    return lock
