"""Programs for other processors: whether the host runs them through an emulator, as binfmt_misc(5) says.

A step's root holds no emulator, so only a handler with flag F will do: the kernel opened its interpreter when it was
registered. That is how Debian's and Docker's qemu-user-static register theirs.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, Literal

from firekiln.values import dataclass

FOLDER: Final = Path("/proc/sys/fs/binfmt_misc")
_CONTROL: Final = frozenset({"register", "status"})

# OCI's architecture: 64-bit, little-endian, e_machine of elf.h
_ELF: Final = {
    "386": (False, True, 3),
    "amd64": (True, True, 62),
    "arm": (False, True, 40),
    "arm64": (True, True, 183),
    "loong64": (True, True, 258),
    "mips64le": (True, True, 8),
    "ppc64le": (True, True, 21),
    "riscv64": (True, True, 243),
    "s390x": (True, False, 22),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A registered handler of programs that begin with `magic` after `offset` bytes, where `mask` has bits."""

    interpreter: str
    flags: str
    offset: int
    magic: bytes
    mask: bytes

    def handles(self, header: bytes) -> bool:
        found = header[self.offset : self.offset + len(self.magic)]
        return len(found) == len(self.magic) and all(
            (byte ^ wanted) & bits == 0 for byte, wanted, bits in zip(found, self.magic, self.mask, strict=True)
        )


def problem(architecture: str, folder: Path = FOLDER) -> str | None:
    """Why a step can't run programs for `architecture` here; None where it can."""
    handler = find(architecture, folder)
    if handler is None:
        return "no emulator for them is registered"
    if "F" not in handler.flags:
        return f"their emulator {handler.interpreter} is registered without the flag F, out of a step's reach"
    return None


def find(architecture: str, folder: Path = FOLDER) -> Handler | None:
    """The handler that runs programs for `architecture` (OCI's word); one that a step can use before any other."""
    header = elf_header(architecture)
    if header is None:
        return None
    handlers = [handler for handler in _registered(folder) if handler.handles(header)]
    return next((handler for handler in handlers if "F" in handler.flags), handlers[0] if handlers else None)


def elf_header(architecture: str) -> bytes | None:
    """How a program for it begins; None for what is not known."""
    known = _ELF.get(architecture)
    if known is None:
        return None
    wide, little, machine = known
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if little else 2, 1])
    order: Literal["little", "big"] = "little" if little else "big"
    executable = (2).to_bytes(2, order)
    return ident.ljust(16, b"\0") + executable + machine.to_bytes(2, order) + (1).to_bytes(4, order)


def parse(text: str) -> Handler | None:
    """A handler's file. None where it is disabled, or goes by a file name's extension."""
    state, *lines = text.splitlines() or [""]
    fields = {name.rstrip(":"): value for name, _, value in (line.partition(" ") for line in lines)}
    if state != "enabled" or "magic" not in fields:
        return None
    magic = bytes.fromhex(fields["magic"])
    mask = bytes.fromhex(fields["mask"]) if "mask" in fields else b"\xff" * len(magic)
    return Handler(
        interpreter=fields.get("interpreter", ""),
        flags=fields.get("flags", ""),
        offset=int(fields.get("offset", "0")),
        magic=magic,
        mask=mask,
    )


def _registered(folder: Path) -> list[Handler]:
    made = []
    with contextlib.suppress(OSError):
        if (folder / "status").read_text() == "enabled\n":
            for name in sorted(set(os.listdir(folder)) - _CONTROL):
                with contextlib.suppress(OSError, ValueError):  # unregistered meanwhile, or of another form
                    made.append(parse((folder / name).read_text()))
    return [handler for handler in made if handler is not None]
