"""Snapshots as requests to Firecracker's API. Pure.

A snapshot is two files, the machine's state and the guest's memory. It holds paths: of its drives, and of the vsock's
socket, so a clone must find its own under the same names, which jails and working folders of their own give it. The
guest's vsock connections do not survive: PID 1 connects anew. Firecracker checks neither of the files, so a digest of
both is to be kept and compared by who keeps them.
"""

from __future__ import annotations

from firekiln.machine.vmm.firecracker.configuration import INTERFACE, PAUSE, RESUME, Request
from firekiln.oci.config import Json
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Where a snapshot's two files are, as Firecracker sees them."""

    state: str
    memory: str


def save(snapshot: Snapshot) -> tuple[Request, ...]:
    """Stop the processors, write both files, and let the machine go on."""
    body: dict[str, Json] = {
        "snapshot_type": "Full",
        "snapshot_path": snapshot.state,
        "mem_file_path": snapshot.memory,
    }
    return (PAUSE, Request(method="PUT", path="/snapshot/create", body=body), RESUME)


def load(snapshot: Snapshot, *, tap: str | None = None, vsock: str | None = None, resume: bool = True) -> Request:
    """Become that machine, in a Firecracker that was configured with nothing yet. Its memory is mapped, not read.

    `tap` is the interface that takes the place of the one of then, `vsock` the socket, where that Firecracker knows of
    it; both are as they were where they are None. Who the clone is, and what time it is, the guest is told by THAW.
    """
    body: dict[str, Json] = {
        "snapshot_path": snapshot.state,
        "mem_backend": {"backend_type": "File", "backend_path": snapshot.memory},
        "resume_vm": resume,
    }
    if tap is not None:
        body["network_overrides"] = [{"iface_id": INTERFACE, "host_dev_name": tap}]
    if vsock is not None:
        body["vsock_override"] = {"uds_path": vsock}
    return Request(method="PUT", path="/snapshot/load", body=body)
