"""Programs of the host that write formats for us."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from firekiln.errors import ExportError, MissingProgramError
from firekiln.machine.export.files import inherited


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


def run(argv: Sequence[str], *files: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a program to its end, which may open `files`. ExportError where it fails."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env=environment,
        pass_fds=[fd for path in files for fd in inherited(path)],
    )
    check(argv[0], done.returncode, done.stderr)
