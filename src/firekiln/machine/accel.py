"""Whether KVM runs a guest here, found out by running one.

That /dev/kvm opens says little: nested in some clouds a guest spins for ever, or QEMU aborts. So the very kernel that
is to boot is booted without a root file system. Where KVM works, it says its first word within a few milliseconds and
panics, having found no root, within a fraction of a second. The answer is remembered until the host boots again.
"""

from __future__ import annotations

import os
import selectors
import time
from pathlib import Path

from firekiln.machine.boards import MICROVM, Board, board_of
from firekiln.machine.hostfacts import HostFacts
from firekiln.machine.qemu import BARE, Qemu, identity
from firekiln.machine.tsc import host_tsc_khz
from firekiln.machine.vmm import spawn

_DEVICE = Path("/dev/kvm")
_FIRST_WORD = 0.5
_DEADLINE = 1.0
_END = b"Kernel panic - not syncing: VFS"


def choose_qemu(kernel: Path, digest: str, facts: HostFacts, architecture: str = "amd64") -> Qemu:
    """QEMU with the accelerator that works here for `kernel`, an ELF file. MissingProgramError where there is no QEMU.

    The first time after the host's boot this takes up to a second, where /dev/kvm is there and usable by this user.
    """
    board = board_of(architecture)
    vmm = identity(board)
    if kvm_works(kernel, digest, facts, vmm, board):
        return Qemu(accelerator="kvm", board=board)
    if board is not MICROVM:
        return Qemu(accelerator="tcg", board=board)
    khz = facts.get("tsc_khz", int)
    if khz is None and (khz := host_tsc_khz()):
        facts.put("tsc_khz", khz)
    return Qemu(accelerator="tcg", tsc_khz=khz)


def kvm_is_open(board: Board = MICROVM) -> bool:
    """Whether this user may use KVM for guests of that machine; whether it works is another question."""
    return os.uname().machine == board.host and os.access(_DEVICE, os.R_OK | os.W_OK)


def kvm_works(kernel: Path, digest: str, facts: HostFacts, vmm: str, board: Board = MICROVM) -> bool:
    """Whether KVM runs `kernel` in the VMM of that identity, as remembered or by a trial."""
    if not kvm_is_open(board):
        return False
    key = f"kvm {vmm} {digest}"
    known = facts.get(key, bool)
    if known is None:
        known = try_kvm(kernel, board)
        facts.put(key, known)
    return known


def probe_argv(kernel: Path, board: Board = MICROVM) -> list[str]:
    """A guest of a bare kernel under KVM, which prints from its first moment."""
    early = "earlyprintk=ttyS0" if board is MICROVM else "earlycon"
    words = [f"console={board.console}", early, *board.restart, "panic=-1", "cryptomgr.notests"]
    return [
        board.program,
        *board.words,
        *("-accel", "kvm"),
        *("-cpu", board.cpu("kvm")),
        *("-m", "128M"),
        *BARE,
        *("-serial", "stdio"),
        *("-kernel", str(kernel)),
        *("-append", " ".join(words)),
    ]


def try_kvm(kernel: Path, board: Board = MICROVM) -> bool:
    """Boot `kernel` under KVM; True when it got as far as looking for its root. Takes at most a second."""
    process = spawn(probe_argv(kernel, board), hint=board.hint)
    assert process.stdout is not None
    assert process.stderr is not None
    start = time.monotonic()
    seen = b""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while _END not in seen:
                left = start + (_DEADLINE if seen else _FIRST_WORD) - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return False
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    return False
                seen += data
            return True
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
