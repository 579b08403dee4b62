"""Whether KVM runs a guest here, found out by running one.

That /dev/kvm opens says little: nested in some clouds a guest spins for ever, or QEMU aborts. So the very kernel that
is to boot is booted without a root file system. Where KVM works, it says its first word within a few milliseconds and
panics, having found no root, within a fraction of a second. The answer is remembered until the host boots again.
"""

from __future__ import annotations

import json
import os
import selectors
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from firekiln.machine.vmm.backend import spawn
from firekiln.machine.vmm.boards import BOARDS, MICROVM, Board, board_of
from firekiln.machine.vmm.hostfacts import HostFacts
from firekiln.machine.vmm.qemu import BARE, Qemu, identity
from firekiln.machine.vmm.tsc import host_tsc_khz
from firekiln.values import dataclass

_DEVICE = Path("/dev/kvm")
_FIRST_WORD = 0.5
_DEADLINE = 1.0
_END = b"Kernel panic - not syncing: VFS"


def choose_qemu(kernel: Path, digest: str, facts: HostFacts, architecture: str = "amd64") -> Qemu:
    """QEMU with the accelerator that works here for `kernel`, an ELF file. MissingProgramError where there is no QEMU.

    The first time after the host's boot this takes up to a second, where /dev/kvm is there and usable by this user.
    """
    board = board_of(architecture)
    if kvm_works(kernel, digest, facts, qemu_trial(board)):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A VMM by which KVM can be tried: `boots` tells whether a bare kernel got as far as looking for its root."""

    name: str
    identity: str
    board: Board
    boots: Callable[[Path], bool]


def qemu_trial(board: Board = MICROVM) -> Trial:
    """MissingProgramError where there is no QEMU."""
    return Trial(
        name="QEMU", identity=identity(board), board=board, boots=lambda kernel: got_far(probe_argv(kernel, board))
    )


def firecracker_trial() -> Trial:
    """For a host without QEMU, and of its own architecture. MissingProgramError where there is no Firecracker."""
    from firekiln.machine.vmm.firecracker.configuration import probe  # noqa: PLC0415 - most hosts have QEMU
    from firekiln.machine.vmm.firecracker.vmm import PROGRAM, firecracker_identity  # noqa: PLC0415 - ditto

    def boots(kernel: Path) -> bool:
        file = os.memfd_create("firekiln-probe", 0)
        try:
            os.write(file, json.dumps(probe(kernel)).encode())
            argv = [PROGRAM, "--no-api", "--level", "Off", "--config-file", f"/proc/self/fd/{file}"]
            return got_far(argv, pass_fds=[file])
        finally:
            os.close(file)

    board = next(board for board in BOARDS.values() if board.host == os.uname().machine)
    return Trial(name="Firecracker", identity=firecracker_identity(PROGRAM), board=board, boots=boots)


def kvm_works(kernel: Path, digest: str, facts: HostFacts, trial: Trial) -> bool:
    """Whether KVM runs `kernel` in that VMM, as remembered or by a trial."""
    if not kvm_is_open(trial.board):
        return False
    key = f"kvm {trial.identity} {digest}"
    known = facts.get(key, bool)
    if known is None:
        known = trial.boots(kernel)
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


def got_far(argv: Sequence[str], *, pass_fds: Sequence[int] = ()) -> bool:
    """Run a VMM; True when its guest got as far as looking for its root. Takes at most a second."""
    process = spawn(argv, pass_fds=pass_fds)
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
