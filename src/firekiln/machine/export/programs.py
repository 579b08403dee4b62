"""Programs of the host that write formats for us."""

from __future__ import annotations

import shutil
from pathlib import Path

from firekiln.errors import ExportError, MissingProgramError


def find_program(name: str, package: str) -> str:
    """Where the program is. MissingProgramError, which names Debian's package."""
    found = shutil.which(name)
    if found is None:
        raise MissingProgramError(f"{name} is not on this host", hint=f"apt-get install {package}")
    return found


def check(program: str, status: int, complaint: bytes) -> None:
    """ExportError with the last line of what a program said, where it failed."""
    if status:
        lines = complaint.decode(errors="replace").strip().splitlines() or [f"exit status {status}"]
        raise ExportError(f"{Path(program).name} failed: {lines[-1]}")
