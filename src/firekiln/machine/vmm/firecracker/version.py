"""Which Firecracker is installed, and whether it may be used."""

from __future__ import annotations

import re
import subprocess
from typing import Final

from firekiln.errors import MachineError, MissingProgramError

Version = tuple[int, int, int]

HINT: Final = "get a release: https://github.com/firecracker-microvm/firecracker/releases, 1.15.1 or later"
_PATTERN: Final = re.compile(r"^(?:Firecracker|Jailer) v(\d{1,4})\.(\d{1,4})\.(\d{1,6})", re.MULTILINE)
_DEADLINE: Final = 5.0


def parse_version(text: str) -> Version | None:
    """The version in what `firecracker --version` or `jailer --version` prints; None where there is none."""
    found = _PATTERN.search(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def is_safe(version: Version) -> bool:
    """Whether it has the fixes of CVE-2026-1386 (the jailer followed links) and CVE-2026-5747 (virtio-pci)."""
    return (1, 14, 4) <= version < (1, 15, 0) or version >= (1, 15, 1)


def installed_version(program: str) -> Version:
    """The version of `program`, firecracker or jailer. MissingProgramError, MachineError where it says none."""
    try:
        done = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE, check=False
        )
    except FileNotFoundError as error:
        raise MissingProgramError(f"{program} is not on this host", hint=HINT) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"{program} --version failed: {error}", hint=HINT) from error
    version = parse_version(done.stdout.decode(errors="replace"))
    if version is None:
        raise MachineError(f"{program} --version names no version", hint=HINT)
    return version


def check_version(program: str) -> Version:
    """As `installed_version`; MachineError where that version must not be used."""
    version = installed_version(program)
    if not is_safe(version):
        said = ".".join(map(str, version))
        raise MachineError(f"{program} {said} has known holes: 1.14.4, or 1.15.1 or later, is needed", hint=HINT)
    return version
