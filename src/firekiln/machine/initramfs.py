"""The initramfs: a base of PID 1 and kernel modules, and one small archive with the machine document behind it.

Linux unpacks concatenated newc archives one after the other (Documentation/driver-api/early-userspace/
buffer-format.rst), each beginning at a multiple of four bytes, so that the base is made once and cached by the caller.

    /init                    PID 1
    /firekiln/modules.list   file names in the order of loading, each perhaps followed by a blank and its parameters
    /firekiln/modules/*.ko
    /firekiln/machine.json   the machine document
"""

from __future__ import annotations

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
    raise NotImplementedError


def document_archive(document: MachineDocument) -> bytes:
    """The archive that holds the machine document only, mode 0600."""
    raise NotImplementedError


def write_initramfs(path: Path, base: Path, document: MachineDocument) -> None:
    """Write to `path` (mode 0600: the environment may hold secrets) the bytes of `base` and the document's archive."""
    raise NotImplementedError
