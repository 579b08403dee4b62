"""GRUB for a disk that BIOS and UEFI boot, made by `grub-mkimage` out of Debian's grub-pc-bin and grub-efi-amd64-bin.

    sector 0 (boot.img) ──▶ BIOS-boot partition (core image) ──┐
                                                               ├──▶ EFI system partition: grub.cfg, kernel, initramfs
    UEFI ──▶ EFI system partition, /EFI/BOOT/BOOTX64.EFI ──────┘

Both images look for that file system by its UUID and read grub.cfg there.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from firekiln.errors import ExportError, MissingProgramError
from firekiln.machine.export.gpt import SECTOR
from firekiln.machine.export.programs import find_program, run
from firekiln.values import dataclass

_FOLDER: Final = Path("/usr/lib/grub")
_PACKAGES: Final = {"i386-pc": "grub-pc-bin", "x86_64-efi": "grub-efi-amd64-bin"}
_COMMON: Final = "part_gpt fat normal linux search_fs_uuid serial terminal echo test"
_MODULES: Final = {"i386-pc": f"{_COMMON} biosdisk", "x86_64-efi": f"{_COMMON} all_video efi_gop"}

_BOOT_CODE: Final = 440
"""Behind it in sector 0 lie the disk's signature and the partition table."""
_KERNEL_SECTOR: Final = 0x5C
_DRIVE_CHECK: Final = 0x66
_LIST: Final = SECTOR - 12
_LOAD_SEGMENT: Final = 0x820
"""Places in boot.img and in the core image's first sector: GRUB's include/grub/i386/pc/boot.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaders:
    """`boot_code` for sector 0, `core` for the BIOS-boot partition, `efi` for /EFI/BOOT/BOOTX64.EFI."""

    boot_code: bytes
    core: bytes
    efi: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Menu:
    """What grub.cfg says: `title` of the system, and the kernel's `words` but for its consoles."""

    title: str
    words: Sequence[str]

    def text(self) -> str:
        """A second for choosing which console the process gets; the kernel speaks on both.

        Linux' /dev/console is the last one named that is there.
        """
        serial, screen = "console=ttyS0,115200", "console=tty0"
        return "\n".join(
            (
                "set timeout=1",
                "if serial --unit=0 --speed=115200; then",
                "  terminal_input console serial",
                "  terminal_output console serial",
                "fi",
                self._entry(self.title, screen, serial),
                self._entry(f"{self.title} on the screen", serial, screen),
                "",
            )
        )

    def _entry(self, title: str, *consoles: str) -> str:
        line = " ".join(("linux /vmlinuz", *self.words, *consoles))
        return f"menuentry '{title}' {{\n  {line}\n  initrd /initrd.img\n}}"


def loaders(uuid: str, *, sector: int) -> Loaders:
    """GRUB for a disk whose BIOS-boot partition begins at `sector` and whose files are on the FAT with that UUID.

    MissingProgramError, ExportError.
    """
    core = _mkimage("i386-pc", uuid)
    return Loaders(
        boot_code=boot_code((_directory("i386-pc") / "boot.img").read_bytes(), sector),
        core=placed(core, sector),
        efi=_mkimage("x86_64-efi", uuid),
    )


def boot_code(image: bytes, sector: int) -> bytes:
    """boot.img, told where the core image begins, and to believe the BIOS about which drive it booted."""
    code = bytearray(image[:_BOOT_CODE])
    struct.pack_into("<Q", code, _KERNEL_SECTOR, sector)
    code[_DRIVE_CHECK : _DRIVE_CHECK + 2] = b"\x90\x90"  # as grub-bios-setup does for hard disks
    return bytes(code)


def placed(core: bytes, sector: int) -> bytes:
    """A core image whose first sector knows where the others lie: in one run behind it."""
    image = bytearray(core.ljust(-(-len(core) // SECTOR) * SECTOR, b"\0"))
    struct.pack_into("<QHH", image, _LIST, sector + 1, len(image) // SECTOR - 1, _LOAD_SEGMENT)
    return bytes(image)


def _mkimage(platform: str, uuid: str) -> bytes:
    program = find_program("grub-mkimage", "grub-common")
    with tempfile.TemporaryDirectory(prefix="firekiln-grub-") as name:
        folder = Path(name)
        (folder / "early.cfg").write_text(f"search.fs_uuid {uuid} root\nset prefix=($root)/\n")
        argv = [program, "-O", platform, "-d", str(_directory(platform)), "-o", str(folder / "image"), "-p", "/"]
        run([*argv, "-c", str(folder / "early.cfg"), *_MODULES[platform].split()])
        made = (folder / "image").read_bytes()
    if not made:
        raise ExportError(f"grub-mkimage made an empty image for {platform}")
    return made


def _directory(platform: str) -> Path:
    folder = _FOLDER / platform
    if not (folder / "kernel.img").is_file():
        raise MissingProgramError(
            f"GRUB for {platform} is not on this host", hint=f"apt-get install {_PACKAGES[platform]}"
        )
    return folder
