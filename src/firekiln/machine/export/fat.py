"""A FAT file system inside of a disk image, made by mtools: no mount, no root."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from firekiln.machine.export.gpt import SECTOR
from firekiln.machine.export.programs import find_program, run

_MAX_CLUSTERS: Final = 65000
"""Of FAT16, which every firmware reads."""
_EPOCH: Final = 315532800
"""1980-01-01, the first day of FAT's calendar."""


def write(path: Path, *, start: int, size: int, serial: int, label: str, files: Mapping[str, bytes]) -> None:
    """Make a FAT at `start` of the disk `path`, `size` bytes large, that holds `files` (by names as in `EFI/BOOT/X`).

    The same arguments give the same bytes. MissingProgramError, ExportError.
    """
    image = f"{path}@@{start}"
    sectors = size // SECTOR
    tools = _Tools(path, image)
    tools.run(
        "mformat",
        *("-T", str(sectors), "-h", "255", "-s", "63", "-H", str(start // SECTOR)),
        *("-c", str(_cluster(sectors)), "-N", f"{serial:08x}", "-v", label, "::"),
    )
    for folder in _folders(files):
        tools.run("mmd", f"::/{folder}")
    with tempfile.TemporaryDirectory(prefix="firekiln-fat-") as name:
        for target, data in files.items():
            source = Path(name, "file")
            source.write_bytes(data)
            tools.run("mcopy", "-o", str(source), f"::/{target}")


def require() -> None:
    """MissingProgramError where mtools are absent."""
    for name in ("mformat", "mmd", "mcopy"):
        find_program(name, "mtools")


def volume_id(serial: int) -> str:
    """A FAT's UUID as Linux and GRUB write it."""
    return f"{serial >> 16:04X}-{serial & 0xFFFF:04X}"


class _Tools:
    """mtools that see nothing of the host's configuration and clock."""

    def __init__(self, path: Path, image: str) -> None:
        self._path = path
        self._image = image
        self._environment = {
            **os.environ,
            "MTOOLSRC": os.devnull,
            "SOURCE_DATE_EPOCH": str(_EPOCH),
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
        }

    def run(self, name: str, *words: str) -> None:
        argv = [find_program(name, "mtools"), "-i", self._image, *words]
        run(argv, self._path, environment=self._environment)


def _cluster(sectors: int) -> int:
    """Sectors in a cluster: 2 KiB, or more where FAT16 could not count them."""
    size = 4
    while sectors // size > _MAX_CLUSTERS:
        size *= 2
    return size


def _folders(files: Mapping[str, bytes]) -> list[str]:
    """Every folder that they need, those above first."""
    found = {str(parent) for name in files for parent in Path(name).parents if parent != Path()}
    return sorted(found)
