"""The initramfs: a base of PID 1 and kernel modules, and one small archive with the machine document behind it.

Linux unpacks concatenated newc archives one after the other (Documentation/driver-api/early-userspace/
buffer-format.rst), each beginning at a multiple of four bytes, so that the base is made once and cached by the caller.

    /init                    PID 1
    /firekiln/modules.list   file names in the order of loading, each perhaps followed by a blank and its parameters
    /firekiln/modules/*.ko
    /firekiln/machine.json   the machine document
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firekiln.machine.contract import MachineDocument


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelModule:
    """An uncompressed module. `name` is its file name (`virtio_blk.ko`); `parameters` as insmod takes them."""

    name: str
    data: bytes
    parameters: str = ""


def base_initramfs(pid1: bytes, modules: Sequence[KernelModule] = ()) -> bytes:
    """The base archive: the same input gives the same bytes. `modules` are loaded in the order given."""
    entries = [
        _Entry("dev", stat.S_IFDIR | 0o755),
        _Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        _Entry("firekiln", stat.S_IFDIR | 0o700),
        _Entry("firekiln/modules", stat.S_IFDIR | 0o700),
        *(_Entry(f"firekiln/modules/{module.name}", stat.S_IFREG | 0o600, module.data) for module in modules),
        _Entry("firekiln/modules.list", stat.S_IFREG | 0o600, modules_list(modules)),
        _Entry("init", stat.S_IFREG | 0o700, pid1),
    ]
    return _archive(entries)


def modules_list(modules: Sequence[KernelModule]) -> bytes:
    """The text of modules.list."""
    return "".join(f"{module.name} {module.parameters}".rstrip() + "\n" for module in modules).encode()


def document_archive(document: MachineDocument) -> bytes:
    """The archive that holds the machine document only, mode 0600."""
    return _archive([_Entry("firekiln/machine.json", stat.S_IFREG | 0o600, document.encode())])


def write_initramfs(path: Path, base: Path, document: MachineDocument) -> None:
    """Write to `path` (mode 0600: the environment may hold secrets) the bytes of `base` and the document's archive.

    `path` must not exist. OSError as the file system gives it; then a part of the file may be left behind.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target, base.open("rb") as source:
        shutil.copyfileobj(source, target, 1 << 20)
        target.write(bytes(-target.tell() % 4))
        target.write(document_archive(document))


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def _archive(entries: Sequence[_Entry]) -> bytes:
    """A newc archive. Its inode numbers only have to differ, and times are 0 for equal bytes."""
    parts: list[bytes] = []
    for number, entry in enumerate((*entries, _Entry("TRAILER!!!", 0)), start=1):
        name = entry.path.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        parts += (header, bytes(-len(header) % 4), entry.data, bytes(-len(entry.data) % 4))
    return b"".join(parts)
