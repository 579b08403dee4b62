"""Linux system calls that Python's `os` lacks, under their man-page names. Each raises OSError with the errno kept.

Those since Linux 5.1 have the same number on every architecture and are called by it, as glibc 2.31 to 2.35 has no
wrappers for them; the others go through libc. Only what the sandbox needs is bound (openat2
is `rootfs/openat2.py`'s). No state, no policy.
"""

# ruff: noqa: D402 - a man page's name looks like a signature
from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]

# sched.h
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
CLONE_PIDFD: Final = 0x00001000

# sys/mount.h
MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MS_STRICTATIME: Final = 0x1000000
MNT_DETACH: Final = 0x2

FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000

# sys/prctl.h
PR_SET_PDEATHSIG: Final = 1
PR_CAPBSET_DROP: Final = 24
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_CAPABILITY_VERSION: Final = 0x20080522  # linux/capability.h: the third, of 64-bit sets

# The only numbers that differ between the architectures, by uname's machine: those of linux/keyctl.h, linux/seccomp.h.
_KEYCTL: Final = {"x86_64": 250, "aarch64": 219}
KEYCTL_JOIN_SESSION_KEYRING: Final = 1
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW: Final = 4


def _check(result: int, *names: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *names[:1])
    return result


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags))


def setns(fd: int, nstype: int) -> None:
    """setns(2)."""
    _check(_libc.setns(fd, nstype))


def mount(source: str, target: str, filesystemtype: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2). The OSError names the target."""
    arguments = (_bytes(source), _bytes(target), _bytes(filesystemtype), ctypes.c_ulong(flags), _bytes(data))
    _check(_libc.mount(*arguments), target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_bytes(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _check(_libc.pivot_root(_bytes(new_root), _bytes(put_old)), new_root)


def sethostname(name: str) -> None:
    """sethostname(2)."""
    raw = os.fsencode(name)
    _check(_libc.sethostname(raw, ctypes.c_size_t(len(raw))), name)


def prctl(option: int, *arguments: int) -> int:
    """prctl(2). Missing arguments are 0, as newer options demand."""
    return _check(_libc.prctl(option, *(*arguments, 0, 0, 0, 0)[:4]))


def capget() -> int:
    """capget(2): the permitted set of the calling thread."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, data))
    _, low, _, _, high, _ = struct.unpack("=6I", data.raw)
    return int(low | high << 32)


def capset(*, effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) on the calling thread."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    low, high = 0xFFFFFFFF, 32
    sets = (effective, permitted, inheritable)
    data = struct.pack("=6I", *(value & low for value in sets), *(value >> high for value in sets))
    _check(_libc.capset(header, data))


def keyctl_join_session_keyring() -> None:
    """keyctl(2): a new, anonymous session keyring instead of the caller's."""
    number = _KEYCTL.get(os.uname().machine)
    if number is not None:
        _check(_syscall(ctypes.c_long(number), KEYCTL_JOIN_SESSION_KEYRING, None))


def seccomp_set_mode_filter(program: bytes) -> None:
    """seccomp(2): install a filter, an array of `struct sock_filter`, on the calling thread.

    Speculation stays as it is (kernels before 5.16 would slow every filtered process down), as with runc.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))  # struct sock_fprog
    number = ctypes.c_long(_SECCOMP[os.uname().machine])
    flags = ctypes.c_uint(SECCOMP_FILTER_FLAG_SPEC_ALLOW)
    _check(_syscall(number, ctypes.c_uint(SECCOMP_SET_MODE_FILTER), flags, header))


def clone3(flags: int, *, exit_signal: int) -> tuple[int, int]:
    """clone3(2) as a fork: (pid, pidfd) in the parent, (0, -1) in the child. The pidfd closes on exec.

    Nothing of libc's or Python's preparations for a fork happens, so the caller must be single-threaded.
    """
    pidfd = ctypes.c_int(-1)
    arguments = struct.pack(
        "=11Q", flags | CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, 0
    )  # struct clone_args, of which version 2 has 88 bytes
    pid = _check(_syscall(ctypes.c_long(435), arguments, ctypes.c_size_t(len(arguments))))
    return pid, pidfd.value if pid else -1


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """close_range(2): every descriptor from `first` to `last` is closed."""
    _check(_syscall(ctypes.c_long(436), ctypes.c_uint(first), ctypes.c_uint(last), 0))


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """open_tree(2)."""
    return _check(_syscall(ctypes.c_long(428), dirfd, _bytes(path), ctypes.c_uint(flags)), path)


def move_mount(from_dirfd: int, from_path: str, to_dirfd: int, to_path: str, flags: int = 0) -> None:
    """move_mount(2)."""
    arguments = (from_dirfd, _bytes(from_path), to_dirfd, _bytes(to_path), ctypes.c_uint(flags))
    _check(_syscall(ctypes.c_long(429), *arguments), to_path)


def fsopen(filesystemtype: str, flags: int = FSOPEN_CLOEXEC) -> int:
    """fsopen(2)."""
    return _check(_syscall(ctypes.c_long(430), _bytes(filesystemtype), ctypes.c_uint(flags)), filesystemtype)


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None, aux: int = 0) -> None:
    """fsconfig(2)."""
    _check(_syscall(ctypes.c_long(431), fd, ctypes.c_uint(command), _bytes(key), _bytes(value), aux))


def fsmount(fd: int, flags: int = FSMOUNT_CLOEXEC, attributes: int = 0) -> int:
    """fsmount(2): a descriptor of a mount that is attached nowhere and goes with its last descriptor."""
    return _check(_syscall(ctypes.c_long(432), fd, ctypes.c_uint(flags), ctypes.c_uint(attributes)))


def mount_setattr(dirfd: int, path: str, flags: int, *, attr_set: int = 0, attr_clr: int = 0) -> None:
    """mount_setattr(2)."""
    attributes = struct.pack("=4Q", attr_set, attr_clr, 0, 0)
    _check(
        _syscall(
            ctypes.c_long(442), dirfd, _bytes(path), ctypes.c_uint(flags), attributes, ctypes.c_size_t(len(attributes))
        ),
        path,
    )
