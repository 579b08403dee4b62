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
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from firekiln.errors import SandboxError
from firekiln.sandbox.confine import confined
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
            f"building without root needs subordinate ids, and {name} has none in {' and '.join(missing)}",
            hint=f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}; {_ADVICE}",
        )
    absent = [program for program in ("newuidmap", "newgidmap") if shutil.which(program) is None]
    if absent:
        raise SandboxError(
            f"building without root needs {' and '.join(absent)}, which the host lacks",
            hint=f"as root: apt-get install uidmap; {_ADVICE}",
        )
    ids = IdMap(
        uids=(Range(0, os.geteuid(), 1), *_consecutive(uids)), gids=(Range(0, os.getegid(), 1), *_consecutive(gids))
    )
    if _setting(_APPARMOR) == "1":
        _check_apparmor(ids)
    return ids


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
    "user.max_user_namespaces": "15000",
    "kernel.unprivileged_userns_clone": "1",
}
"""What forbids user namespaces where it is 0, and the values that allow them."""
_APPARMOR: Final = "kernel.apparmor_restrict_unprivileged_userns"
"""Where it is 1, only programs with a profile that says so get rights in a user namespace (Ubuntu 23.10 and later)."""


def _check_kernel() -> None:
    """SandboxError where a setting of the kernel forbids what we need."""
    if not Path("/proc/self/ns/user").exists():
        raise SandboxError("building without root needs user namespaces, which this kernel lacks", hint=_ADVICE[3:])
    for key, allowing in _SWITCHES.items():
        if _setting(key) == "0":
            raise _forbidden(f"{key}=0", f"{key}={allowing}")


def _check_apparmor(ids: IdMap) -> None:
    if subprocess.run(confined(["true"], ids), stderr=subprocess.DEVNULL, check=False).returncode:
        raise _forbidden(f"{_APPARMOR}=1", f"{_APPARMOR}=0")


def _forbidden(by: str, setting: str) -> SandboxError:
    return SandboxError(
        f"building without root needs user namespaces, which {by} forbids",
        hint=f"as root: sysctl -w {setting} (and in /etc/sysctl.d, to last); {_ADVICE}",
    )


def _setting(key: str) -> str:
    """A kernel's setting, or nothing where it has none of that name."""
    try:
        return Path("/proc/sys", *key.split(".")).read_text(encoding="ascii").strip()
    except OSError:
        return ""
