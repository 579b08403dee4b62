"""Mounts that nobody else sees, from inside a chroot too."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from firekiln.sandbox import syscalls
from firekiln.sandbox.syscalls import CLONE_NEWNS, MS_NODEV, MS_NOSUID, MS_PRIVATE, MS_REC

if TYPE_CHECKING:
    from firekiln.sandbox.idmap import IdMap  # whose text is enough here: the spawner's start waits for every module

_MAIN: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from firekiln.sandbox.confine import execute; "
    "execute(sys.argv[2], sys.argv[3:])"
)


def make_private() -> None:
    """Stop mounts from propagating out of and into this process's mount namespace, which is its own.

    The root of a chroot need not be a mount, and only mounts propagate, so the process goes to the namespace's own root
    (setns(2): joining a mount namespace sets root and working directory to its root) and stays there.
    """
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(namespace, CLONE_NEWNS)
    finally:
        os.close(namespace)
    syscalls.mount("none", "/", None, MS_REC | MS_PRIVATE)


def confined(argv: Sequence[str], ids: IdMap | None = None) -> list[str]:
    """The command line of `argv` in mount and pid namespaces of its own, which end with it, and it with its parent.

    With `ids` it is root of a user namespace that has them, and has a /dev/shm of its own.
    """
    package = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    in_namespaces = "unshare --mount --propagation unchanged --pid --fork --kill-child --mount-proc".split()
    python = [sys.executable, "-I", "-S", "-c", _MAIN, package, ids.encode() if ids else ""]
    return [*python, "setpriv", "--pdeathsig", "KILL", *in_namespaces, *argv]


def execute(ids: str, argv: list[str]) -> None:
    """Become `argv`, in a mount namespace that nothing propagates to or from; root and folder stay what they were.

    `ids`, if any, are those of a user namespace of its own, as `IdMap` encodes them.
    """
    if ids:
        from firekiln.sandbox import userns  # noqa: PLC0415 - root has no use for it
        from firekiln.sandbox.idmap import IdMap  # noqa: PLC0415 - as above

        userns.enter(IdMap.decode(ids))
    syscalls.unshare(CLONE_NEWNS)
    places = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in ("/", ".")]
    make_private()
    if ids and os.path.isdir("/dev/shm"):  # noqa: S108 - a mount point
        # The host's may have mounts of others below it: the kernel then lets no user namespace take it without them.
        syscalls.mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")  # noqa: S108 - as above
    os.fchdir(places[0])
    os.chroot(".")
    os.fchdir(places[1])
    os.execvp(argv[0], argv)  # noqa: S606 - argv as it is: no shell
