"""The system calls that a step may make: Docker's default profile as one seccomp filter, seccomp(2).

The profile (moby/profiles, as of 2026) allows what it names. Here it stands as its complement: of the calls up to the
newest that it knows (`known`), all but those listed as `refused` are allowed. It is the same set, in a tenth of the
words. Calls that the profile allows to holders of a capability are decided by Docker's default capabilities, which are
those of every step that has a filter at all.

    refused calls                   EPERM
    calls newer than the profile    ENOSYS, as runc answers, so that programs fall back to older ones
    clone3                          ENOSYS: its flags lie in memory, where no filter can look
    clone                           EPERM where it makes a namespace
    socket                          EPERM for families that containers have no use for (AF_ALG, AF_VSOCK, …)
    personality                     EPERM but for Linux's own, 32-bit Linux, and asking

A 64-bit kernel runs 32-bit programs too, and those number their calls otherwise: a filter has one part for each kind.
The third kind on x86-64, x32, has the same mark as the first but numbers beyond all known ones; it gets ENOSYS
(Docker allows it, no distribution uses it).

`program` is pure; `install` is the only system call. libseccomp would bring the tables along, but as a C library that
its Python package does not ship.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from functools import cache
from typing import Final

from firekiln.sandbox import syscalls
from firekiln.values import dataclass

# linux/seccomp.h, linux/audit.h
RET_ALLOW: Final = 0x7FFF0000
RET_EPERM: Final = 0x00050000 | errno.EPERM
RET_ENOSYS: Final = 0x00050000 | errno.ENOSYS
RET_KILL: Final = 0x80000000
X86_64: Final = 0xC000003E
I386: Final = 0x40000003
AARCH64: Final = 0xC00000B7
ARM: Final = 0x40000028

# linux/bpf_common.h: class, size and mode, or operation and source, of one instruction
_LOAD: Final = 0x20
_JUMP: Final = 0x05
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06

# struct seccomp_data, little-endian: the call, the kind of program, and the low half of the first argument. The three
# calls that are decided by that argument read no more of it (an int, or the low 32 bits of clone's flags).
_CALL: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENT: Final = 16

_NAMESPACES: Final = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, each with UNAME26, and the question."""
_FAMILIES: Final = (*range(12), *range(13, 19), 21, 22, 24, *range(26, 34), 35, 36, 39, *range(41, 46))
_CLONE3: Final = 435
_NEW: Final = range(424, 467)
"""Calls since Linux 5.1, numbered alike everywhere: pidfd_send_signal to removexattrat."""

_EVERYWHERE: Final = """
    io_uring_setup:425 io_uring_enter:426 io_uring_register:427 open_tree:428 move_mount:429 fsopen:430 fsconfig:431
    fsmount:432 fspick:433 pidfd_getfd:438 process_madvise:440 mount_setattr:442 quotactl_fd:443
    set_mempolicy_home_node:450 lsm_get_self_attr:459 lsm_set_self_attr:460 lsm_list_modules:461
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abi:
    """How one kind of program makes system calls. `refused` are words `name:number`."""

    architecture: int
    known: tuple[range, ...]
    refused: str
    clone: int
    socket: int
    personality: int


ABIS: Final = {
    "x86_64": (
        Abi(
            architecture=X86_64,
            known=(range(336), _NEW),
            clone=56,
            socket=41,
            personality=135,
            refused="""
                syslog:103 uselib:134 ustat:136 sysfs:139 vhangup:153 pivot_root:155 _sysctl:156 acct:163
                settimeofday:164 mount:165 umount2:166 swapon:167 swapoff:168 reboot:169 sethostname:170
                setdomainname:171 iopl:172 ioperm:173 create_module:174 init_module:175 delete_module:176
                get_kernel_syms:177 query_module:178 quotactl:179 nfsservctl:180 getpmsg:181 putpmsg:182
                afs_syscall:183 tuxcall:184 security:185 lookup_dcookie:212 clock_settime:227 vserver:236 mbind:237
                set_mempolicy:238 get_mempolicy:239 kexec_load:246 add_key:248 request_key:249 keyctl:250
                migrate_pages:256 unshare:272 move_pages:279 perf_event_open:298 fanotify_init:300
                open_by_handle_at:304 setns:308 kcmp:312 finit_module:313 kexec_file_load:320 bpf:321 userfaultfd:323
            """,
        ),
        Abi(
            architecture=I386,
            known=(range(467),),
            clone=120,
            socket=359,
            personality=136,
            refused="""
                break:17 oldstat:18 mount:21 umount:22 stime:25 oldfstat:28 stty:31 gtty:32 nice:34 ftime:35 prof:44
                signal:48 acct:51 umount2:52 lock:53 mpx:56 ulimit:58 oldolduname:59 ustat:62 sigaction:67
                sgetmask:68 ssetmask:69 sigsuspend:72 sigpending:73 sethostname:74 settimeofday:79 oldlstat:84
                uselib:86 swapon:87 reboot:88 readdir:89 profil:98 ioperm:101 syslog:103 olduname:109 iopl:110
                vhangup:111 idle:112 vm86old:113 swapoff:115 setdomainname:121 create_module:127 init_module:128
                delete_module:129 get_kernel_syms:130 quotactl:131 bdflush:134 sysfs:135 afs_syscall:137 _sysctl:149
                vm86:166 query_module:167 nfsservctl:169 getpmsg:188 putpmsg:189 pivot_root:217 lookup_dcookie:253
                clock_settime:264 vserver:273 mbind:274 get_mempolicy:275 set_mempolicy:276 kexec_load:283
                add_key:286 request_key:287 keyctl:288 migrate_pages:294 unshare:310 move_pages:317
                perf_event_open:336 fanotify_init:338 open_by_handle_at:342 setns:346 kcmp:349 finit_module:350
                bpf:357 userfaultfd:374 clock_settime64:404
            """,
        ),
    ),
    "aarch64": (
        Abi(
            architecture=AARCH64,
            known=(range(295), _NEW),
            clone=220,
            socket=198,
            personality=92,
            refused="""
                lookup_dcookie:18 umount2:39 mount:40 pivot_root:41 nfsservctl:42 vhangup:58 quotactl:60 acct:89
                unshare:97 kexec_load:104 init_module:105 delete_module:106 clock_settime:112 syslog:116 reboot:142
                sethostname:161 setdomainname:162 settimeofday:170 add_key:217 request_key:218 keyctl:219 swapon:224
                swapoff:225 mbind:235 get_mempolicy:236 set_mempolicy:237 migrate_pages:238 move_pages:239
                perf_event_open:241 fanotify_init:262 open_by_handle_at:265 setns:268 kcmp:272 finit_module:273
                bpf:280 userfaultfd:282 kexec_file_load:294
            """,
        ),
        Abi(
            architecture=ARM,
            # the last two: breakpoint and cacheflush, set_tls, of this processor's own
            known=(range(467), range(0xF0001, 0xF0003), range(0xF0005, 0xF0006)),
            clone=120,
            socket=281,
            personality=136,
            refused="""
                mount:21 nice:34 acct:51 umount2:52 ustat:62 sigaction:67 sigsuspend:72 sigpending:73 sethostname:74
                settimeofday:79 uselib:86 swapon:87 reboot:88 syslog:103 vhangup:111 swapoff:115 setdomainname:121
                init_module:128 delete_module:129 quotactl:131 bdflush:134 sysfs:135 _sysctl:149 nfsservctl:169
                pivot_root:218 lookup_dcookie:249 clock_settime:262 pciconfig_iobase:271 pciconfig_read:272
                pciconfig_write:273 add_key:309 request_key:310 keyctl:311 vserver:313 mbind:319 get_mempolicy:320
                set_mempolicy:321 unshare:337 move_pages:344 kexec_load:347 perf_event_open:364 fanotify_init:367
                open_by_handle_at:371 setns:375 kcmp:378 finit_module:379 bpf:386 userfaultfd:388 migrate_pages:400
                kexec_file_load:401 clock_settime64:404
            """,
        ),
    ),
}
"""By uname's machine: the kinds of programs that it runs."""


def refused(abi: Abi) -> dict[str, int]:
    """The refused calls' numbers by name."""
    return {name: int(number) for name, number in (word.split(":") for word in (abi.refused + _EVERYWHERE).split())}


@cache
def program(machine: str) -> bytes | None:
    """The filter as an array of `struct sock_filter`; None for machines that have none here."""
    abis = ABIS.get(machine)
    if abis is None:
        return None
    made = [_instruction(_LOAD, _ARCHITECTURE)]
    for abi in abis:
        part = [_instruction(_LOAD, _CALL), *_search(_verdicts(abi))]
        made += [_instruction(_JUMP_EQUAL, abi.architecture, 1), _instruction(_JUMP, len(part)), *part]
    return b"".join([*made, _instruction(_RETURN, RET_KILL)])


def install() -> None:
    """Bind the calling process and what it starts to the filter, for good.

    Without no_new_privs, so that set-user-ID programs work; that needs CAP_SYS_ADMIN. OSError as seccomp(2).
    """
    code = program(os.uname().machine)
    if code is None:
        return
    try:
        syscalls.seccomp_set_mode_filter(code)
    except OSError as error:
        raise OSError(error.errno, f"cannot install the seccomp filter: {error.strerror}") from error


def _verdicts(abi: Abi) -> list[tuple[int, list[bytes]]]:
    """First numbers of stretches of calls, ascending from 0, each with the code that decides them."""
    allow, eperm, enosys = ([_instruction(_RETURN, verdict)] for verdict in (RET_ALLOW, RET_EPERM, RET_ENOSYS))
    single = {
        **dict.fromkeys(refused(abi).values(), eperm),
        _CLONE3: enosys,
        abi.clone: [_instruction(_LOAD, _ARGUMENT), _instruction(_JUMP_ANY_BIT, _NAMESPACES, 0, 1), *eperm, *allow],
        abi.socket: _if_among(_FAMILIES),
        abi.personality: _if_among(_PERSONALITIES),
    }
    made: list[tuple[int, list[bytes]]] = []
    for stretch in abi.known:
        for number in stretch:
            code = single.get(number, allow)
            if not made or made[-1][1] is not code:
                made.append((number, code))
        made.append((stretch.stop, enosys))
    return made


def _if_among(values: Sequence[int]) -> list[bytes]:
    """Allow the call where its first argument is one of `values`."""
    tests = [_instruction(_JUMP_EQUAL, value, len(values) - index) for index, value in enumerate(values)]
    verdicts = [_instruction(_RETURN, RET_EPERM), _instruction(_RETURN, RET_ALLOW)]
    return [_instruction(_LOAD, _ARGUMENT), *tests, *verdicts]


def _search(verdicts: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """Code that finds the stretch that the accumulator lies in, by halves: a jump reaches 255 instructions far."""
    if len(verdicts) == 1:
        return verdicts[0][1]
    middle = len(verdicts) // 2
    below, above = _search(verdicts[:middle]), _search(verdicts[middle:])
    return [_instruction(_JUMP_AT_LEAST, verdicts[middle][0], len(below)), *below, *above]


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand)
