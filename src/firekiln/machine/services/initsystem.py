"""Which init an image holds. Pure: looks at its Tree, runs nothing."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from firekiln.rootfs.lookup import resolve
from firekiln.rootfs.tree import Directory, File, Tree
from firekiln.values import dataclass

Kind: TypeAlias = Literal["systemd", "openrc", "sysvinit"]

_SYSTEMD: Final = ("usr/lib/systemd/systemd", "lib/systemd/systemd")
_INIT: Final = "sbin/init"
_SIGRTMIN_4: Final = 38
"""systemd(1): "powers off the machine"; glibc's SIGRTMIN is 34."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitSystem:
    """An init, the program that is to be PID 1 (absolute path), and how it is asked to power the machine off."""

    kind: Kind
    program: str
    stop_signal: int | None = None
    stop_argv: tuple[str, ...] = ()


def detect(image: Tree) -> InitSystem | None:
    """The image's init; None where it has none that is known.

    /sbin/init decides: systemd where it leads there (or where it is missing, and systemd is not), OpenRC where its run
    levels are (both busybox's and sysvinit's init start it), else sysvinit where its /etc/inittab is.
    """
    init = resolve(image, _INIT.encode())
    systemd = next((path for path in _SYSTEMD if _is_file(image, path)), None)
    if systemd is not None and (init.node is None or init.path.endswith(b"lib/systemd/systemd")):
        return InitSystem(kind="systemd", program=f"/{systemd}", stop_signal=_SIGRTMIN_4)
    if not isinstance(init.node, File) or not _is_file(image, "etc/inittab"):
        return None
    program, stop = f"/{_INIT}", ("/sbin/poweroff",)
    if _is_folder(image, "etc/runlevels") and (_is_file(image, "sbin/openrc") or _is_file(image, "sbin/openrc-run")):
        return InitSystem(kind="openrc", program=program, stop_argv=stop)
    if _is_folder(image, "etc/rc2.d"):
        return InitSystem(kind="sysvinit", program=program, stop_argv=stop)
    return None


def is_init(image: Tree, command: str) -> bool:
    """Whether a command is an init of the image: /sbin/init, /lib/systemd/systemd, or a link to one."""
    found = resolve(image, command.encode("utf-8", "surrogateescape"))
    if not command.startswith("/") or not isinstance(found.node, File):
        return False
    init = resolve(image, _INIT.encode())
    return found.path == init.path or found.path.endswith(b"lib/systemd/systemd")


def find_program(image: Tree, name: str) -> str | None:
    """The absolute path of a program of the image that is one by itself: busybox's applets take other options."""
    for folder in ("usr/bin", "bin", "usr/sbin", "sbin"):
        found = resolve(image, f"{folder}/{name}".encode())
        if isinstance(found.node, File) and b"busybox" not in found.path.rpartition(b"/")[2]:
            return f"/{folder}/{name}"
    return None


def read_file(image: Tree, path: str) -> bytes | None:
    """The content of a file of the image; None where there is none."""
    node = resolve(image, path.encode()).node
    return node.read() if isinstance(node, File) else None


def _is_file(image: Tree, path: str) -> bool:
    return isinstance(resolve(image, path.encode()).node, File)


def _is_folder(image: Tree, path: str) -> bool:
    return isinstance(resolve(image, path.encode()).node, Directory)
