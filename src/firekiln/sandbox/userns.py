"""Enter a user namespace of our own: user_namespaces(7).

Only a process outside may say which ids it has, and none but newuidmap(1) may lend more than one to an ordinary user.
So a child that is forked before, and stays outside, runs it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NoReturn

from firekiln.sandbox import syscalls
from firekiln.sandbox.idmap import IdMap, Range

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def enter(ids: IdMap) -> None:
    """Become root of a new user namespace with `ids`. The calling process has one thread.

    OSError where the kernel or newuidmap refuses; newuidmap says why on the standard error.
    """
    reading, writing = os.pipe()
    us = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(writing)
        _map(us, ids, reading)
    os.close(reading)
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(writing, b"y")
    finally:
        os.close(writing)
        _, status = os.waitpid(child, 0)
    if status:
        raise PermissionError(
            "cannot map ids: newuidmap and newgidmap are refused (their set-user-ID bit may be without effect here)"
        )
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _map(pid: int, ids: IdMap, ready: int) -> NoReturn:
    """The child: give `pid` its ids once it is in the namespace, or end where it never gets there."""
    status = 1
    try:
        if os.read(ready, 1):
            for kind, ranges in (("gid", ids.gids), ("uid", ids.uids)):
                if os.geteuid() == 0:
                    _write_map(pid, kind, ranges)
                else:
                    _run([f"new{kind}map", str(pid), *(str(number) for part in ranges for number in part)])
            status = 0
    except OSError as error:
        os.write(2, f"cannot map ids: {error.strerror}\n".encode())
    finally:
        os._exit(status)


def _write_map(pid: int, kind: str, ranges: Sequence[Range]) -> None:
    """What newuidmap does, for who has the right: all ranges in one write(2)."""
    with open(f"/proc/{pid}/{kind}_map", "wb", buffering=0) as file:
        file.write("".join(f"{a} {b} {c}\n" for a, b, c in ranges).encode())


def _run(argv: list[str]) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawnp(argv[0], argv, {"PATH": _PATH}), 0)[1])
    if status:
        raise PermissionError(1, f"{argv[0]} refuses with status {status}")
