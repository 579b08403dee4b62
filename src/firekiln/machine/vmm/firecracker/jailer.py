"""The jailer: Firecracker as a user of its own, in a root folder, control group and network namespace of its own.

The command line and the plan of the root folder are pure; `make_tree` carries the plan out. The folder's place is the
jailer's own, and it is made before the jailer runs, so that what is there is ours:

    BASE/firecracker/ID/root/    the jail's root, owned by the machine's user
    ├── kernel, initramfs        what the requests name
    ├── drive0, drive1, …        hard links: the layers' bytes are on the disk and in the page cache once
    ├── log                      a FIFO: it takes what Firecracker says, and no disk can be filled by it
    ├── vsock_1024               the socket that the guest's agent is connected to
    └── api.sock, vsock          Firecracker's sockets

CVE-2026-1386: a link that lies where the jailer writes makes root write elsewhere. Each folder on the way down must be
root's (or ours) and writable by nobody else, no link is followed, and the machine's own folder is made anew.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from firekiln.errors import MachineError
from firekiln.machine.vmm.spec import MIB, MachineSpec
from firekiln.values import dataclass

PROGRAM: Final = "jailer"
API_SOCKET: Final = "api.sock"
LOG: Final = "log"
VSOCK: Final = "vsock"
PARENT_GROUP: Final = "firekiln"

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_FIRST_USER: Final = 0x70000000
"""Beyond what systemd gives containers (0x6fffffff at most), below what 32 bits with a sign hold."""

_USERS: Final = (1 << 27) - 1
_FILES: Final = 1024
_PROCESSES: Final = 64
_OVERHEAD: Final = 96 * MIB
"""What Firecracker and its page tables may take beside the guest's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jail:
    """Where and as whom one machine's Firecracker runs. `executable` is the path of Firecracker, of that name.

    `unified`: whether control groups are of version 2; None: the jailer is to make none. `netns` is a namespace's file.
    """

    id: str
    base: Path
    executable: Path
    uid: int
    gid: int
    unified: bool | None = None
    netns: Path | None = None

    def __post_init__(self) -> None:
        if not _IDENTIFIER.fullmatch(self.id):
            raise MachineError(f"{self.id}: the jailer takes letters, digits and hyphens, 64 at most, for an id")

    @property
    def root(self) -> Path:
        """The jail's root folder; the jailer's rule."""
        return self.base / self.executable.name / self.id / "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A file of the host that the jail has as `name`. One that is `owned` is the machine's own and becomes its user's.

    What is not owned is shared with others, and only read.
    """

    name: str
    source: Path
    owned: bool


def user_of(machine_id: str) -> int:
    """A user and group id that no account has, made of the machine's id: one of 134 million."""
    return _FIRST_USER + (int.from_bytes(hashlib.sha256(machine_id.encode()).digest()[:4]) & _USERS)


def jailed(spec: MachineSpec) -> tuple[MachineSpec, tuple[Placed, ...]]:
    """The machine as it is seen in its jail, and what must lie there for it. Pure."""
    drives = [replace(drive, path=Path(f"/drive{number}")) for number, drive in enumerate(spec.drives)]
    placed = (
        Placed(name="kernel", source=spec.kernel, owned=False),
        Placed(name="initramfs", source=spec.initramfs, owned=True),
        *(
            Placed(name=f"drive{number}", source=drive.path, owned=not drive.readonly)
            for number, drive in enumerate(spec.drives)
        ),
    )
    inside = replace(spec, kernel=Path("/kernel"), initramfs=Path("/initramfs"), drives=tuple(drives))
    return inside, placed


def jailer_argv(jail: Jail, spec: MachineSpec, arguments: Sequence[str]) -> list[str]:
    """The jailer's command line; `arguments` are Firecracker's own.

    No --daemonize: console and complaints are pipes of the supervisor, who must be the parent. No --new-pid-ns: the
    process that the supervisor started would not be the one to watch.
    """
    return [
        PROGRAM,
        *("--id", jail.id),
        *("--exec-file", str(jail.executable)),
        *("--uid", str(jail.uid)),
        *("--gid", str(jail.gid)),
        *("--chroot-base-dir", str(jail.base)),
        *("--resource-limit", f"no-file={_FILES}"),
        *(("--netns", str(jail.netns)) if jail.netns else ()),
        *(() if jail.unified is None else _group_words(jail.unified, spec)),
        "--",
        *arguments,
    ]


def _group_words(unified: bool, spec: MachineSpec) -> Sequence[str]:
    memory = "memory.max" if unified else "memory.limit_in_bytes"
    return (
        *("--cgroup-version", "2" if unified else "1"),
        *("--parent-cgroup", PARENT_GROUP),
        *("--cgroup", f"{memory}={spec.memory + _OVERHEAD}"),
        *("--cgroup", f"pids.max={_PROCESSES}"),
    )


def make_tree(jail: Jail, placed: Sequence[Placed]) -> None:
    """Make the jail's root with all that it holds. MachineError where it is not safe to, or not possible.

    Nothing of what was made remains then.
    """
    try:
        with ExitStack() as held, ExitStack() as undo:
            root = _root(jail, held, undo)
            for file in placed:
                _place(root, file, jail)
            os.mkfifo(LOG, 0o600, dir_fd=root)
            os.chown(LOG, jail.uid, jail.gid, dir_fd=root, follow_symlinks=False)
            os.fchown(root, jail.uid, jail.gid)
            undo.pop_all()
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise MachineError(f"the jail {jail.root} cannot be made: {reason}") from error


def remove_tree(jail: Jail) -> None:
    """Remove what is the machine's own, whatever was put there. Idempotent."""
    shutil.rmtree(jail.root.parent, ignore_errors=True)  # by descriptors: it follows no links
    with suppress(OSError):
        (jail.base / jail.executable.name).rmdir()  # the last one closes the door


def remove_groups(jail: Jail, folders: Sequence[Path]) -> None:
    """Remove the control groups that the jailer made below these folders (`/sys/fs/cgroup`). Idempotent."""
    for folder in folders:
        with suppress(OSError):
            (folder / PARENT_GROUP / jail.id).rmdir()


def _root(jail: Jail, held: ExitStack, undo: ExitStack) -> int:
    """A descriptor of the jail's new root, every folder above it checked; `undo` removes the machine's."""
    folder = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    held.callback(os.close, folder)
    seen = Path("/")
    for name in (*Path(os.path.realpath(jail.base.parent)).parts[1:], jail.base.name, jail.executable.name):
        seen /= name
        with suppress(FileExistsError):
            os.mkdir(name, 0o711, dir_fd=folder)
        folder = _enter(folder, name, seen)
        held.callback(os.close, folder)
    _clear(folder, jail.id, seen / jail.id)
    undo.callback(shutil.rmtree, jail.id, ignore_errors=True, dir_fd=folder)
    for name in (jail.id, "root"):
        seen /= name
        os.mkdir(name, 0o700, dir_fd=folder)
        folder = _enter(folder, name, seen)
        held.callback(os.close, folder)
    return folder


def _clear(parent: int, name: str, seen: Path) -> None:
    """Remove what a killed supervisor of this machine left. MachineError where it is not of ours."""
    try:
        left = _enter(parent, name, seen)
    except FileNotFoundError:
        return
    os.close(left)
    shutil.rmtree(name, dir_fd=parent)  # by descriptors: it follows no links, whoever lived in there


def _enter(parent: int, name: str, seen: Path) -> int:
    """A descriptor of the folder; MachineError where it is none, or another user could change what lies in it."""
    try:
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise MachineError(f"the way to the jail is no folder but a link: {seen}", hint="remove it") from error
        raise
    status = os.fstat(folder)
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    if status.st_uid not in (0, os.geteuid()) or shared:
        os.close(folder)
        raise MachineError(
            f"another user could plant links on the way to the jail: {seen}", hint="give --root a folder of root's own"
        )
    return folder


def _place(root: int, file: Placed, jail: Jail) -> None:
    """Put a file of the host into the jail: a hard link, or a copy of what is read only, where disks differ."""
    try:
        os.link(file.source, file.name, dst_dir_fd=root, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if file.owned:
            raise MachineError(
                f"{file.source} lies on another disk than the jail, and can't be shared with it",
                hint="keep machines and volumes in one store",
            ) from error
        _copy(root, file)
    linked = os.open(file.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    try:
        status = os.fstat(linked)
    finally:
        os.close(linked)
    if not stat.S_ISREG(status.st_mode):
        raise MachineError(f"{file.source} is no regular file, and has no place in a jail")
    if file.owned:
        os.chown(file.name, jail.uid, jail.gid, dir_fd=root, follow_symlinks=False)
    elif not status.st_mode & stat.S_IROTH:
        raise MachineError(
            f"{file.source} cannot be read by the jail's user", hint=f"chmod a+r {file.source}: it is only linked"
        )


def _copy(root: int, file: Placed) -> None:
    with (
        file.source.open("rb") as source,
        os.fdopen(
            os.open(file.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444, dir_fd=root), "wb"
        ) as made,
    ):
        shutil.copyfileobj(source, made, 1 << 20)
