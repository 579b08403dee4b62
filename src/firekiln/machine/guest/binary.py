"""Where programs in C lie: the guest's PID 1, and what else is compiled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from firekiln.errors import MachineError, MissingProgramError

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_HINT = "apt-get install make musl-tools, or install a wheel of firekiln, which has it inside"


def pid1_path(architecture: str) -> Path:
    """The static PID 1 for an OCI architecture (`amd64`, `arm64`). Raises as `compiled`."""
    machine = _MACHINES.get(architecture)
    if machine is None:
        raise MachineError(f"there is no guest for {architecture}", hint="machines are linux/amd64 or linux/arm64")
    return compiled("guest", f"init-{machine}", machine)


def compiled(folder: str, name: str, machine: str) -> Path:
    """A program in C of this package, made of the checkout's `folder` for what uname(2) calls `machine`.

    It comes with the wheel; in a checkout it is compiled when it is absent or older than its sources. MachineError
    or MissingProgramError, with a hint, where neither gives one.
    """
    package = Path(__file__).parents[1]
    binary = package / "guest-bin" / name
    sources = package.parents[2] / folder
    if (sources / "Makefile").is_file():
        if not _is_newer(binary, sources):
            _compile(sources, binary, machine)
    elif not binary.is_file():
        raise MachineError(f"this installation lacks {binary}", hint=_HINT)
    return binary


def _is_newer(binary: Path, folder: Path) -> bool:
    """Whether the binary is younger than all of its sources: make's own question, without the 20 ms of starting it."""
    try:
        made = binary.stat().st_mtime_ns
    except FileNotFoundError:
        return False
    sources = (folder / "Makefile", *folder.glob("*.ld"), *(folder / "src").iterdir())
    return all(path.stat().st_mtime_ns < made for path in sources)


def _compile(folder: Path, binary: Path, machine: str) -> None:
    argv = ["make", "-s", "-C", str(folder), f"OUT={binary.parent}", f"ARCH={machine}", f"PYTHON={sys.executable}"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MissingProgramError("make is needed to compile what is in C", hint=_HINT) from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["make failed"]
        raise MachineError(f"{folder.name} could not be compiled: {lines[0]}", hint=_HINT)
