"""A disk that boots under any hypervisor, and on hardware: partitions, GRUB, Debian's kernel, and the image as ext4.

    0        GRUB's boot code, protective MBR, partition table
    1 MiB    BIOS boot     GRUB's core image
    2 MiB    EFI system    FAT: EFI/BOOT/BOOTX64.EFI, grub.cfg, vmlinuz, initrd.img
    …        root          ext4, perhaps with a tree of hashes behind it (verity.py)
    end      the partition table again

Everything is written where it belongs: no loop device, no root, no copy. There is no Secure Boot: nothing is signed.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from firekiln.machine.export import fat, gpt, grub, verity
from firekiln.machine.export.flat import INIT, Flat
from firekiln.machine.export.gpt import ALIGNMENT, SECTOR, Partition
from firekiln.machine.export.meter import Meter
from firekiln.machine.export.output import Raw
from firekiln.rootfs import ext4
from firekiln.store.durable import write_all
from firekiln.values import dataclass

_LOADER: Final = 1 << 20
_ESP_LEAST: Final = 64 << 20
"""Room for another kernel."""
_WORDS: Final = ("quiet", "panic=10", "net.ifnames=0", "cryptomgr.notests")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a disk holds. `seed` stands for all of it: every identifier is derived from it."""

    flat: Flat
    hostname: str
    kernel: bytes
    initrd: bytes
    seed: bytes


def write(contents: Contents, output: Raw, path: Path, meter: Meter) -> None:
    """Write the disk to the empty file `path`. RootfsError, ExportError, MissingProgramError, OSError."""
    fat.require()
    esp, root = ALIGNMENT + _LOADER, ALIGNMENT + _LOADER + _esp_size(contents)
    serial = int.from_bytes(_derived(contents, "esp").bytes[:4], "big")
    loaders = grub.loaders(fat.volume_id(serial), sector=ALIGNMENT // SECTOR)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        meter.watch(path, contents.flat.tree)
        words = _write_root(fd, contents, output, root, meter)
        menu = grub.Menu(title=contents.hostname, words=words)
        end = os.fstat(fd).st_size
        size = _aligned(end) + ALIGNMENT
        os.ftruncate(fd, size)
        fat.write(
            path,
            start=esp,
            size=root - esp,
            serial=serial,
            label="EFI",
            files={
                "EFI/BOOT/BOOTX64.EFI": loaders.efi,
                "grub.cfg": menu.text().encode(),
                "vmlinuz": contents.kernel,
                "initrd.img": contents.initrd,
            },
        )
        tables = gpt.tables(_partitions(contents, esp, root, end), disk=_derived(contents, "disk"), size=size)
        _put(fd, 0, tables.first)
        _put(fd, 0, loaders.boot_code)
        _put(fd, ALIGNMENT, loaders.core)
        _put(fd, size - len(tables.last), tables.last)
    finally:
        os.close(fd)


def _write_root(fd: int, contents: Contents, output: Raw, start: int, meter: Meter) -> Sequence[str]:
    """The root file system at `start`; the kernel's words that find it."""
    written = ext4.write(
        contents.flat.tree,
        fd,
        offset=start,
        size=output.size,
        journal=not output.verity,
        label=output.label,
        uuid=output.uuid or str(_derived(contents, "root file system")),
    )
    words = [f"root=UUID={written.uuid}", "rootfstype=ext4"]
    if output.verity:
        made = verity.append(fd, seed=contents.seed, start=start, progress=meter.hashed)
        words += ["ro", made.word]
    else:
        words += ["rw"]
    return [*words, *([] if contents.flat.linked else [f"init={INIT}"]), *_WORDS, *output.append.split()]


def _partitions(contents: Contents, esp: int, root: int, end: int) -> Sequence[Partition]:
    places = (
        ("BIOS boot", gpt.BIOS_BOOT, ALIGNMENT, _LOADER),
        ("EFI system", gpt.EFI_SYSTEM, esp, root - esp),
        ("root", gpt.LINUX_ROOT_X86_64, root, end - root),
    )
    return [
        Partition(kind=kind, id=_derived(contents, name), name=name, start=start, size=size)
        for name, kind, start, size in places
    ]


def _derived(contents: Contents, what: str) -> uuid.UUID:
    """RFC 9562, version 8 (custom)."""
    digest = bytearray(hashlib.sha256(f"firekiln {what}\0".encode() + contents.seed).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(digest))


def _esp_size(contents: Contents) -> int:
    return max(_ESP_LEAST, _aligned(2 * (len(contents.kernel) + len(contents.initrd))))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _put(fd: int, offset: int, data: bytes) -> None:
    os.lseek(fd, offset, os.SEEK_SET)
    write_all(fd, data)
