"""Where the guest's compiled PID 1 lies."""

from __future__ import annotations

from pathlib import Path


def pid1_path(architecture: str) -> Path:
    """The static PID 1 for an OCI architecture (`amd64`, `arm64`).

    It comes with the wheel; in a checkout it is compiled when it is absent or older than its sources. MachineError
    with a hint where neither gives one.
    """
    raise NotImplementedError
