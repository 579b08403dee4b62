"""Which ids a build without root's rights may give to files: user namespaces with subordinate ids.

Sources: user_namespaces(7), subuid(5), newuidmap(1). In the namespace the user is root, and the ids from 1 on are
those that /etc/subuid and /etc/subgid lend to the user; the kernel lets no process in it touch any others.

Whoever is root without the rights of the host's root (in a container) needs no such loan: a namespace within has the
same ids as the one that it is in.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from firekiln.errors import SandboxError
from firekiln.sandbox.idmap import IdMap, Range

ALL: Final = (1 << 32) - 1
"""The length of a mapping of every id: (uid_t) -1 is none."""
_CAP_SYS_ADMIN: Final = 21
_ADVICE: Final = "or run firekiln as root"


def is_host_root() -> bool:
    """Whether we may do all that root may: no user namespace around us, and mounts are allowed."""
    if os.geteuid() != 0 or _own("uid_map") != (Range(0, 0, ALL),):
        return False
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_SYS_ADMIN & 1)


def own_map() -> IdMap:
    """The ids of the namespace that we can make. SandboxError, its hint saying what to do, where we can make none."""
    _check_kernel()
    if os.geteuid() == 0:
        return IdMap(uids=tuple(_same(_own("uid_map"))), gids=tuple(_same(_own("gid_map"))))
    name = _user()
    uids, gids = (subordinate(_lent(kind), name, os.geteuid()) for kind in ("subuid", "subgid"))
    missing = [f"/etc/{kind}" for kind, lent in (("subuid", uids), ("subgid", gids)) if not lent]
    if missing:
        raise SandboxError(
            f"building without root needs subordinate ids, and {' and '.join(missing)} lend none to {name}",
            hint=f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}; {_ADVICE}",
        )
    absent = [program for program in ("newuidmap", "newgidmap") if shutil.which(program) is None]
    if absent:
        raise SandboxError(
            f"building without root needs {' and '.join(absent)}, which the host lacks",
            hint=f"as root: apt-get install uidmap; {_ADVICE}",
        )
    return IdMap(
        uids=(Range(0, os.geteuid(), 1), *_consecutive(uids)), gids=(Range(0, os.getegid(), 1), *_consecutive(gids))
    )


def subordinate(text: str, name: str, uid: int) -> list[tuple[int, int]]:
    """Start and count of each range that subuid(5) lends to the user, by name or by number."""
    found = []
    for line in text.splitlines():
        owner, _, rest = line.strip().partition(":")
        start, _, count = rest.partition(":")
        if owner in {name, str(uid)} and start.isdecimal() and count.isdecimal() and int(count):
            found.append((int(start), int(count)))
    return found


def _consecutive(lent: Iterable[tuple[int, int]]) -> Iterable[Range]:
    """The ranges as ids from 1 on."""
    inside = 1
    for start, count in lent:
        yield Range(inside, start, count)
        inside += count


def _same(ranges: Iterable[Range]) -> Iterable[Range]:
    return (Range(inside, inside, count) for inside, _, count in ranges)


def _own(kind: str) -> tuple[Range, ...]:
    text = Path("/proc/self", kind).read_text(encoding="ascii")
    return tuple(Range(*map(int, line.split())) for line in text.splitlines())


def _lent(kind: str) -> str:
    try:
        return Path("/etc", kind).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


_SWITCHES: Final = {
    "/proc/sys/user/max_user_namespaces": ("0", "user.max_user_namespaces=15000"),
    "/proc/sys/kernel/unprivileged_userns_clone": ("0", "kernel.unprivileged_userns_clone=1"),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": ("1", "kernel.apparmor_restrict_unprivileged_userns=0"),
}
"""What forbids user namespaces: each file's value that does so, and the setting that allows them."""


def _check_kernel() -> None:
    """SandboxError where a setting of the kernel forbids what we need."""
    if not Path("/proc/self/ns/user").exists():
        raise SandboxError("building without root needs user namespaces, which this kernel lacks", hint=_ADVICE[3:])
    for name, (forbidding, setting) in _SWITCHES.items():
        try:
            value = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if value == forbidding:
            key = setting.partition("=")[0]
            raise SandboxError(
                f"building without root needs user namespaces, which {key}={value} forbids",
                hint=f"as root: sysctl -w {setting} (and in /etc/sysctl.d, to last); {_ADVICE}",
            )
