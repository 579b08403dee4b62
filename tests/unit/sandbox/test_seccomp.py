"""The filter, run as the kernel would run it."""

import ctypes
import struct

import pytest

from firekiln.sandbox import seccomp
from firekiln.sandbox.seccomp import AARCH64, ARM, I386, RET_ALLOW, RET_ENOSYS, RET_EPERM, RET_KILL, X86_64

MACHINES = {X86_64: "x86_64", I386: "x86_64", AARCH64: "aarch64", ARM: "aarch64"}


def verdict(architecture: int, call: int, argument: int = 0, *, machine: str | None = None) -> int:
    """What a classic BPF machine returns."""
    code = seccomp.program(machine or MACHINES[architecture])
    data = {0: call, 4: architecture, 16: argument & 0xFFFFFFFF}
    accumulator = place = 0
    while True:
        operation, if_true, if_false, operand = struct.unpack_from("<HBBI", code, place * 8)
        place += 1
        match operation:
            case 0x20:
                accumulator = data[operand]
            case 0x05:
                place += operand
            case 0x15:
                place += if_true if accumulator == operand else if_false
            case 0x35:
                place += if_true if accumulator >= operand else if_false
            case 0x45:
                place += if_true if accumulator & operand else if_false
            case 0x06:
                return operand


@pytest.mark.parametrize(
    ("architecture", "allowed", "refused"),
    [
        (X86_64, {"read": 0, "execve": 59, "chroot": 161, "ptrace": 101, "openat2": 437}, {"mount": 165, "bpf": 321}),
        (I386, {"read": 3, "execve": 11, "chroot": 61, "ptrace": 26, "openat2": 437}, {"mount": 21, "bpf": 357}),
        (AARCH64, {"read": 63, "execve": 221, "chroot": 51, "ptrace": 117, "openat2": 437}, {"mount": 40, "bpf": 280}),
        (ARM, {"read": 3, "execve": 11, "chroot": 61, "ptrace": 26, "set_tls": 0xF0005}, {"mount": 21, "bpf": 386}),
    ],
)
def test_calls_are_allowed_and_refused_as_by_docker_s_profile(architecture, allowed, refused):
    assert {name: verdict(architecture, number) for name, number in allowed.items()} == dict.fromkeys(
        allowed, RET_ALLOW
    )
    everywhere = {"io_uring_setup": 425, "move_mount": 429, "pidfd_getfd": 438}
    for number in (refused | everywhere).values():
        assert verdict(architecture, number) == RET_EPERM


@pytest.mark.parametrize(
    ("architecture", "clone", "socket", "personality"),
    [(X86_64, 56, 41, 135), (I386, 120, 359, 136), (AARCH64, 220, 198, 92), (ARM, 120, 281, 136)],
)
def test_some_calls_are_decided_by_their_first_argument(architecture, clone, socket, personality):
    thread, user_namespace = 0x3D0F00, 0x10000000 | 17
    assert verdict(architecture, clone, thread) == RET_ALLOW
    assert verdict(architecture, clone, user_namespace) == RET_EPERM
    assert verdict(architecture, 435) == RET_ENOSYS, "clone3: libc falls back to clone"
    families = [family for family in range(50) if verdict(architecture, socket, family) == RET_EPERM]
    assert families == [12, 19, 20, 23, 25, 34, 37, 38, 40, 46, 47, 48, 49]
    assert [value for value in (0, 8, 0x40000, -1) if verdict(architecture, personality, value) == RET_EPERM] == [
        0x40000
    ]


def test_new_calls_and_x32_are_answered_as_by_an_older_kernel():
    for architecture in MACHINES:
        assert verdict(architecture, 467) == verdict(architecture, 10**6) == RET_ENOSYS
    assert verdict(X86_64, 0x40000000 | 1) == RET_ENOSYS
    assert verdict(X86_64, 0xFFFFFFFF) == RET_ENOSYS


def test_programs_of_another_kind_are_killed():
    assert verdict(I386, 3, machine="aarch64") == RET_KILL
    assert verdict(AARCH64, 3, machine="x86_64") == RET_KILL


def test_machines_without_a_table_have_no_filter():
    assert seccomp.program("riscv64") is None


def test_the_numbers_are_those_of_libseccomp():
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("needs libseccomp2")
    for abi in (abi for abis in seccomp.ABIS.values() for abi in abis):
        words = {
            **seccomp.refused(abi),
            "clone": abi.clone,
            "socket": abi.socket,
            "personality": abi.personality,
        }
        for name, number in words.items():
            found = library.seccomp_syscall_resolve_name_arch(ctypes.c_uint(abi.architecture), name.encode())
            assert found == number or found < 0, name  # negative: younger than the library, or one of socketcall's
