"""What a unit or script says of the application: its words, and by which programs of the image it gets its rights."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Final

from firekiln.errors import MachineError
from firekiln.machine.guest.contract import Restart
from firekiln.machine.process import Process, Rlimit
from firekiln.machine.services.initsystem import find_program, read_file
from firekiln.rootfs.lookup import resolve
from firekiln.rootfs.tree import Directory, Tree
from firekiln.sandbox.user import Identity
from firekiln.sandbox.user import resolve as resolve_user
from firekiln.values import dataclass

NAME: Final = "firekiln-app"
"""Of the unit or service."""
AGENT: Final = "/run/firekiln/firekiln"
"""Our program in the guest; see guest/PROTOCOL.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The application of an image.

    identity       whom it runs as; its supplementary groups are complete
    user           USER's word for that, where the image's passwd has it; else None
    make_cwd       the image lacks its working directory
    stop_timeout   seconds; None: for ever
    setpriv, prlimit, env   these programs of the image, None where it has none
    """

    process: Process
    restart: Restart
    identity: Identity
    user: str | None
    make_cwd: bool
    stop_timeout: float | None
    env: str | None = None
    setpriv: str | None = None
    prlimit: str | None = None

    @property
    def is_root(self) -> bool:
        return (self.identity.uid, self.identity.gid, self.identity.groups) == (0, 0, ())


def service_of(image: Tree, process: Process, restart: Restart, *, stop_timeout: float) -> Service:
    """The service of a process. MachineError where its user is not in the image, as Docker says it."""
    passwd, group = read_file(image, "etc/passwd"), read_file(image, "etc/group")
    try:
        identity = resolve_user(process.user, passwd=passwd, group=group)
        added = tuple(resolve_user(f"0:{word}", passwd=passwd, group=group).gid for word in process.groups)
    except LookupError as error:
        raise MachineError(str(error), hint="--user takes what the image's /etc/passwd and /etc/group have") from error
    groups = tuple(dict.fromkeys((*identity.groups, *added)))
    return Service(
        process=process,
        restart=restart,
        identity=Identity(uid=identity.uid, gid=identity.gid, groups=groups, home=identity.home),
        user=_name_of(identity.uid, passwd or b""),
        make_cwd=not isinstance(resolve(image, process.cwd.encode("utf-8", "surrogateescape")).node, Directory),
        stop_timeout=stop_timeout if stop_timeout >= 0 else None,
        env=find_program(image, "env"),
        setpriv=find_program(image, "setpriv"),
        prlimit=find_program(image, "prlimit"),
    )


def privilege_words(service: Service) -> tuple[str, ...]:
    """The beginning of a command line that runs the rest as the service's user, whether passwd knows him or not.

    MachineError where the image has no program for it.
    """
    if service.is_root:
        return ()
    if service.setpriv is None:
        raise MachineError(
            f"the image has nothing to run its service as user {service.identity.uid}",
            hint="install util-linux's setpriv in it (Alpine: apk add setpriv), or use --init=firekiln",
        )
    groups = ",".join(map(str, service.identity.groups))
    return (
        service.setpriv,
        f"--reuid={service.identity.uid}",
        f"--regid={service.identity.gid}",
        f"--groups={groups}" if groups else "--clear-groups",
    )


def limit_words(service: Service) -> tuple[str, ...]:
    """The beginning of a command line that runs the rest with the service's limits; nothing without `prlimit`."""
    if service.prlimit is None or not service.process.rlimits:
        return ()
    return (service.prlimit, *(f"--{limit.name}={_bound(limit)}" for limit in service.process.rlimits))


def environment(service: Service) -> tuple[str, ...]:
    """The process's, with HOME as the guest would add it."""
    words = [word for word in service.process.env if word != "HOME="]
    if not any(word.startswith("HOME=") for word in words):
        words.append(f"HOME={service.identity.home}")
    return tuple(words)


def is_plain_path(path: str) -> bool:
    """Whether a path can stand in a line by itself: no control characters, no blank or backslash at its end."""
    return re.fullmatch(r"/[^\x00-\x1f\x7f\ud800-\udfff]*(?<![\s\\])", path) is not None and posixpath.isabs(path)


def _bound(limit: Rlimit) -> str:
    def shown(value: int | None) -> str:
        return "unlimited" if value is None else str(value)

    return f"{shown(limit.soft)}:{shown(limit.hard)}"


def _name_of(uid: int, passwd: bytes) -> str | None:
    """The name under which the image's passwd has an id: the first."""
    rows = (line.split(":") for line in passwd.decode(errors="replace").split("\n"))
    names: Sequence[str] = [row[0] for row in rows if len(row) > 3 and row[2] == str(uid)]
    return next(iter(names), None)
