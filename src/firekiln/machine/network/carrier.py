"""The carrier: a small program of ours, `carrier/src`, between a guest and what is outside. One for each interface.

Behind QEMU's user network it judges each frame that the guest sends: what would reach the host itself, a metadata
service, or somebody else's address in the guest's network is dropped, and the guest can't say that it is another. On a
named network it passes frames on to the carriers of its other machines, and answers for their names. On a bridge of the
kernel's, where nftables judges, it answers for names only.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from firekiln.errors import MachineError
from firekiln.machine.guest.binary import compiled
from firekiln.machine.vmm.spec import Nic

_READY = b"ready\n"
_ADDRESS_IN_USE = "Address already in use"


def carrier_path() -> Path:
    """The program for this host. Raises as `compiled`."""
    machine = os.uname().machine
    return compiled("carrier", f"carrier-{machine}", machine)


def carrier_argv(program: Path, nic: Nic, fds: Sequence[int], others: Sequence[Nic] = ()) -> list[str]:
    """Its command line. `fds` are the sockets of the guest's frames and of those outside; none on the kernel's bridge.

    The names of the networks of `others`, which the machine has too, are known to it as well.
    """
    sockets = ("--vm", "--outside")
    folders = [str(other.folder) for other in others if other.folder is not None and other.folder != nic.folder]
    return [
        str(program),
        *(word for pair in zip(sockets, map(str, fds), strict=False) for word in pair),
        *(["--serve"] if nic.tap else []),
        *(["--peers"] if nic.folder is not None and not nic.tap else []),
        *(["--internal"] if nic.is_internal else []),
        *("--mac", nic.mac),
        *("--address", str(nic.address)),
        *("--gateway", str(nic.gateway)),
        *("--nameserver", str(nic.nameserver)),
        *(word for folder in folders for word in ("--names", folder)),
    ]


def start_carrier(nic: Nic, fds: Sequence[int], others: Sequence[Nic] = ()) -> subprocess.Popen[bytes]:
    """Start it, and wait until it is ready. It ends with this thread, or with the machine.

    MachineError where it can't do its part.
    """
    argv = carrier_argv(carrier_path(), nic, fds, others)
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[*fds],
        cwd=nic.folder or "/",
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as output:
        said = output.readline()
    if said != _READY:
        process.kill()
        process.wait()
        reason = said.decode(errors="replace").strip()
        raise MachineError(f"network {nic.network}: {reason or 'its carrier did not start'}", hint=_hint(reason))
    return process


def _hint(reason: str) -> str | None:
    if "port 53" in reason and _ADDRESS_IN_USE in reason:
        return "a name server of this host listens on all addresses (ss -lunp sport = 53): have it listen on its own"
    return None
