"""A step's file system, put together in its own mount namespace, which the kernel takes down with it.

The spawner's root is a small tmpfs that nobody else sees (`prepare`), so that the namespaces copied from it are small
and hold nothing of the host's but what was handed over:

    /l/N  the layers, mounted once for all steps      /r /s /u  bare mount points for each step's own mounts:
    /e    an empty directory                                    its root, staging, working area
    /h    for who is root of a user namespace only: the host's /proc, /sys and devices (`_HOST`), which it can't make

Linux lets such a root mount a /proc only where all of another one can be seen: that is what /h/proc is for.

What is mounted at a place of the image is put together under /s first, where no image has a say, then moved to where
the image's path leads (`contained.ensured`). All that a step can write to is `nodev`: a device node that it makes opens
nothing. Its own devices are bind mounts of nodes made for it alone, so that a `chmod` of one reaches nobody else.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from firekiln.sandbox import confine, contained, mounts, syscalls
from firekiln.sandbox.request import Attached, Mount, Request, Stack, Stub, Tmpfs
from firekiln.sandbox.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_STRICTATIME,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)

DEVICES: Final = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
OVERLAY: Final = "redirect_dir=off,metacopy=off,index=off"
OVERLAY_ROOTLESS: Final = "userxattr,metacopy=off,index=off"
"""`userxattr` allows no word on redirect_dir, and does not follow or make any."""
_HOST: Final = ("proc", "sys", *(f"dev/{name}" for name in DEVICES))

# Moby's lists (oci/defaults.go), for what exists.
MASKED: Final = (
    "asound acpi interrupts kcore keys latency_stats timer_list timer_stats sched_debug scsi".split(),
    "firmware devices/virtual/powercap".split(),
)
READ_ONLY: Final = "bus fs irq sys sysrq-trigger".split()

_LOCKED: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC
_TTY_GROUP: Final = 5


def prepare(folder: str, *, rootless: bool) -> None:
    """Leave the host's file system for the spawner's own, in a mount namespace of its own. `folder` is any directory
    there; nothing of it is used. `rootless`: we are root of a user namespace only.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    confine.make_private()
    kept = {name: _detached(f"/{name}") for name in _HOST} if rootless else {}
    area = mounts.tmpfs(mode=0o700, attributes=MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
    syscalls.move_mount(area, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
    os.fchdir(area)
    os.close(place)
    os.close(area)
    for name in "lersuh":
        os.mkdir(name)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", MNT_DETACH)
    os.chdir("/")
    for name, mount in kept.items():
        _keep(name, mount)


def _keep(name: str, mount: int) -> None:
    """Attach a part of the host's below /h."""
    if name.startswith("dev/"):
        os.makedirs("/h/dev", exist_ok=True)
        os.close(os.open(f"/h/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
    else:
        os.mkdir(f"/h/{name}")
    attach(mount, f"/h/{name}")
    os.close(mount)


def assemble(request: Request, working: int, handed: Sequence[int]) -> list[Stub]:
    """Build the root of `request` at /r: what mount points had to be made in it.

    `working` is the working area's mount with folders `upper` and `work`; `handed` are the mounts that the request's
    `Attached` count. OSError where the kernel refuses; LookupError where a source of a mount is not there.
    """
    attach(working, "/u")
    _copy_meta(f"/l/{request.layers[-1]}" if request.layers else "/e", "/u/upper")
    _overlay(request, request.layers, "/r", upper="/u", flags=0 if request.insecure else MS_NODEV)
    syscalls.mount("staging", "/s", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755")
    stubs: list[Stub] = []
    root = os.open("/r", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        stubs.extend(_place_all(root, _kernel_mounts(request)))
        stubs.extend(_place_all(root, _files(request)))
        for number, mount in enumerate(sorted(request.mounts, key=_depth)):
            stubs.extend(_place_all(root, [(mount.target, _made(request, mount, number, handed))]))
    finally:
        os.close(root)
    return stubs


def enter() -> None:
    """Make /r the root, and let go of the spawner's."""
    os.chdir("/r")
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", MNT_DETACH)
    os.chdir("/")


def attach(mount: int, place: str) -> None:
    """Attach a mount that is attached nowhere yet to a path of the spawner's root."""
    syscalls.move_mount(mount, "", AT_FDCWD, place, MOVE_MOUNT_F_EMPTY_PATH)


def _depth(mount: Mount) -> int:
    return len([part for part in mount.target.split("/") if part])


def _overlay(request: Request, layers: Sequence[int], place: str, *, upper: str | None, flags: int = MS_NODEV) -> None:
    """Short names keep the options of 500 layers within mount(2)'s page. Without layers /e is the lower side."""
    lower = ":".join([f"/l/{number}" for number in reversed(layers)])
    if upper is None:
        options = f"lowerdir={lower}:/e" if layers else "lowerdir=/e:/e"
    else:
        options = f"lowerdir={lower or '/e'},upperdir={upper}/upper,workdir={upper}/work,volatile,{OVERLAY}"
    if request.rootless:
        options = options.replace(OVERLAY, OVERLAY_ROOTLESS) if upper else f"{options},userxattr"
    syscalls.mount("overlay", place, "overlay", flags | (0 if upper else MS_RDONLY), options)


def _copy_meta(source: str, target: str) -> None:
    """An overlay's root has the attributes of its upper side, so that must begin as the layers' root."""
    made = os.stat(source)
    os.chown(target, made.st_uid, made.st_gid)
    os.chmod(target, stat.S_IMODE(made.st_mode))
    for name in os.listxattr(source):
        if ".overlay." not in name:
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(made.st_atime_ns, made.st_mtime_ns))


def _place_all(root: int, mounts: Iterable[tuple[str, int]]) -> Iterator[Stub]:
    for target, fd in mounts:
        with contextlib.ExitStack() as held:
            held.callback(os.close, fd)
            directory = stat.S_ISDIR(os.fstat(fd).st_mode)
            place, stub = held.enter_context(contained.ensured(root, target, directory=directory))
            if stub:
                yield stub
            syscalls.move_mount(fd, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def _detached(place: str) -> int:
    """A copy of the mounts at a path of our own, attached nowhere."""
    return syscalls.open_tree(AT_FDCWD, place, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)


def _kernel_mounts(request: Request) -> Iterator[tuple[str, int]]:
    for name, number in DEVICES.items():
        if request.rootless:
            os.mknod(f"/s/{name}")
            syscalls.mount(f"/h/dev/{name}", f"/s/{name}", None, MS_BIND)  # the host's own, nobody's to change here
            continue
        os.mknod(f"/s/{name}", stat.S_IFCHR, os.makedev(*number))
        os.chmod(f"/s/{name}", 0o666)  # noqa: S103 - as devices are; mknod's own mode is subject to the umask
    for name, make in (("proc", _proc), ("dev", _dev), ("sys", _sys)):
        place = f"/s/{name}"
        os.mkdir(place)
        make(place, request)
        yield f"/{name}", _detached(place)


def _proc(place: str, request: Request) -> None:
    try:
        syscalls.mount("proc", place, "proc", _LOCKED)
    except PermissionError as error:
        if not request.rootless:
            raise
        reason = "a container around us hides parts of /proc (--security-opt systempaths=unconfined shows them)"
        raise OSError(error.errno, reason, "/proc") from error
    if request.pid_max:
        with open(f"{place}/sys/kernel/pid_max", "w", encoding="utf-8") as file:
            file.write(str(request.pid_max))
    if request.insecure:
        return
    for name in READ_ONLY:
        _read_only(f"{place}/{name}")
    for name in MASKED[0]:
        _mask(f"{place}/{name}")


def _sys(place: str, request: Request) -> None:
    flags = _LOCKED | (0 if request.insecure else MS_RDONLY)
    if request.rootless and not request.private_network:  # a new sysfs shows the devices of a network of ours only
        host = _detached("/h/sys")
        attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
        syscalls.mount_setattr(host, "", AT_EMPTY_PATH | AT_RECURSIVE, attr_set=attributes)
        attach(host, place)
        os.close(host)
    else:
        syscalls.mount("sysfs", place, "sysfs", flags)
    with contextlib.suppress(OSError):  # a kernel or a host without cgroups has nothing to show
        _cgroups(f"{place}/fs/cgroup", flags)
    if not request.insecure:
        for name in MASKED[1]:
            _mask(f"{place}/{name}")


def _cgroups(place: str, flags: int) -> None:
    """cgroup2's tree, or one directory for each hierarchy of version 1 as the spawner found them in /proc."""
    with open("/s/proc/self/cgroup", encoding="utf-8") as file:  # a codec that is loaded: there is no library any more
        hierarchies = [line.split(":")[1] for line in file]
    if not any(hierarchies):
        syscalls.mount("cgroup", place, "cgroup2", flags)
        return
    syscalls.mount("cgroup", place, "tmpfs", flags & ~MS_RDONLY, "mode=755,size=64k")
    for controllers in filter(None, hierarchies):
        folder = f"{place}/{controllers.removeprefix('name=')}"
        os.mkdir(folder)
        syscalls.mount("cgroup", folder, "cgroup", flags, controllers)
    syscalls.mount("none", place, None, MS_REMOUNT | MS_BIND | flags)


def _dev(place: str, request: Request) -> None:
    device = 0 if request.insecure else MS_NODEV
    syscalls.mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_STRICTATIME | device, "mode=755,size=65536k")
    for name in DEVICES:
        os.mknod(f"{place}/{name}")
        syscalls.mount(f"/s/{name}", f"{place}/{name}", None, MS_BIND)
    for name, target in LINKS.items():
        os.symlink(target, f"{place}/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{place}/{name}")
    terminals = f"newinstance,ptmxmode=0666,mode=0620,gid={_TTY_GROUP}"
    syscalls.mount("devpts", f"{place}/pts", "devpts", MS_NOSUID | MS_NOEXEC, terminals)
    syscalls.mount("shm", f"{place}/shm", "tmpfs", _LOCKED, f"mode=1777,size={request.shm_size}")
    syscalls.mount("mqueue", f"{place}/mqueue", "mqueue", _LOCKED)


def _read_only(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        syscalls.mount(path, path, None, MS_BIND | MS_REC)
        syscalls.mount("none", path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | _LOCKED)


def _mask(path: str) -> None:
    """Nothing is to be read there: an empty read-only directory, or the null device."""
    try:
        directory = stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    if directory:
        syscalls.mount("tmpfs", path, "tmpfs", _LOCKED | MS_RDONLY, "size=0k,nr_inodes=1")
    else:
        syscalls.mount("/s/null", path, None, MS_BIND)


def _files(request: Request) -> Iterator[tuple[str, int]]:
    for target, text in (("/etc/resolv.conf", request.resolv_conf), ("/etc/hosts", request.hosts)):
        place = f"/s/{os.path.basename(target)}"
        with open(place, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        fd = _detached(place)
        attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
        syscalls.mount_setattr(fd, "", AT_EMPTY_PATH, attr_set=attributes)
        yield target, fd


def _made(request: Request, mount: Mount, number: int, handed: Sequence[int]) -> int:
    """The mount that `mount` asks for, attached nowhere."""
    place = f"/s/m{number}"
    match mount:
        case Tmpfs(size=size):
            os.mkdir(place)
            options = f"mode=1777,size={size}" if size else "mode=1777"
            syscalls.mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, options)
            return _detached(place)
        case Stack(layers=layers, source=source, upper=upper):
            os.mkdir(place)
            if upper:
                _copy_meta(f"/l/{layers[-1]}" if layers else "/e", f"/u/{upper}/upper")
            _overlay(request, layers, place, upper=f"/u/{upper}" if upper else None)
            return _part(place, source)
        case Attached(descriptor=descriptor, source=None):
            return os.dup(handed[descriptor])
        case Attached(descriptor=descriptor, source=source, readonly=readonly):
            os.mkdir(place)
            attach(handed[descriptor], place)
            fd = _part(place, source or "/")
            if readonly:
                syscalls.mount_setattr(fd, "", AT_EMPTY_PATH, attr_set=MOUNT_ATTR_RDONLY)
            return fd


def _part(place: str, source: str) -> int:
    root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contained.found(root, source) as fd:
            return syscalls.open_tree(fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH)
    except (FileNotFoundError, NotADirectoryError):
        raise LookupError(f'failed to compute the source of a mount: "{source}": not found') from None
    finally:
        os.close(root)
