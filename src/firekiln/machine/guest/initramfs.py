"""The initramfs: a base of PID 1 and kernel modules, and one small archive with the machine document behind it.

Linux unpacks concatenated newc archives one after the other (Documentation/driver-api/early-userspace/
buffer-format.rst), each beginning at a multiple of four bytes, so that the base is made once and cached by the caller.

    /init                    PID 1
    /firekiln/modules.list   file names in the order of loading, each perhaps followed by a blank and its parameters
    /firekiln/modules/*.ko
    /firekiln/machine.json   the machine document
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from firekiln.errors import MachineError
from firekiln.oci.config import Json
from firekiln.rootfs import cpio
from firekiln.rootfs.tree import Device, Directory, File, Meta, Node
from firekiln.values import dataclass

_DOCUMENT: Final = b"firekiln/machine.json"
_HEADER: Final = 110
"""Bytes of newc's header, behind which is the name, and behind that, at a multiple of four, the file."""
_SIZE: Final = 54
"""Where in the header the file's size is, as eight hexadecimal digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelModule:
    """An uncompressed module. `name` is its file name (`virtio_blk.ko`); `parameters` as insmod takes them."""

    name: str
    data: bytes
    parameters: str = ""


def base_initramfs(pid1: bytes, modules: Sequence[KernelModule] = ()) -> bytes:
    """The base archive: the same input gives the same bytes. `modules` are loaded in the order given."""
    files: dict[bytes, Node] = {os.fsencode(m.name): File.of(m.data, Meta(mode=0o600)) for m in modules}
    ours: dict[bytes, Node] = {
        b"modules": _folder(files),
        b"modules.list": File.of(modules_list(modules), Meta(mode=0o600)),
    }
    console = Device(meta=Meta(mode=0o600), block=False, major=5, minor=1)
    return _archive(
        {
            b"dev": _folder({b"console": console}, mode=0o755),
            b"firekiln": _folder(ours),
            b"init": File.of(pid1, Meta(mode=0o700)),
        }
    )


def modules_list(modules: Sequence[KernelModule]) -> bytes:
    """The text of modules.list."""
    return "".join(f"{module.name} {module.parameters}".rstrip() + "\n" for module in modules).encode()


class Document(Protocol):
    """What PID 1 is told: a MachineDocument, or another of its kind."""

    def encode(self) -> bytes: ...


def document_archive(document: Document) -> bytes:
    """The archive that holds the machine document only, mode 0600."""
    return _document_archive(document.encode())


def _document_archive(data: bytes) -> bytes:
    file = File.of(data, Meta(mode=0o600))
    return _archive({b"firekiln": _folder({b"machine.json": file})})


def append_document(path: Path, document: Mapping[str, Json]) -> None:
    """Have another document, as JSON, take the place of the one in an initramfs: of two files Linux keeps the later.

    OSError.
    """
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    with path.open("r+b") as target:
        target.seek(0, os.SEEK_END)
        target.write(bytes(-target.tell() % 4))
        target.write(_document_archive(data))


def read_document(path: Path) -> dict[str, Any]:
    """The document of an initramfs that `write_initramfs` wrote, as JSON. MachineError where there is none; OSError."""
    data = path.read_bytes()
    header = data.rfind(_DOCUMENT + b"\0") - _HEADER
    try:
        size = int(data[header + _SIZE : header + _SIZE + 8], 16)
        start = header + _HEADER + len(_DOCUMENT) + 1
        start += -start % 4
        document = json.loads(data[start : start + size])
    except ValueError as error:
        raise MachineError(f"{path}: no machine document is in it", hint="run the image anew") from error
    return document  # type: ignore[no-any-return] # what `encode` made


def write_initramfs(path: Path, base: Path, document: Document) -> None:
    """Write to `path` (mode 0600: the environment may hold secrets) the bytes of `base` and the document's archive.

    `path` must not exist. OSError as the file system gives it; then a part of the file may be left behind.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target, base.open("rb") as source:
        shutil.copyfileobj(source, target, 1 << 20)
        target.write(bytes(-target.tell() % 4))
        target.write(document_archive(document))


def _folder(children: dict[bytes, Node], *, mode: int = 0o700) -> Directory:
    return Directory(meta=Meta(mode=mode), children=children)


def _archive(children: dict[bytes, Node]) -> bytes:
    """A newc archive, its times 0 for equal bytes."""
    descriptor = os.memfd_create("initramfs", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "w+b") as file:
        cpio.write(_folder(children, mode=0o755), descriptor)
        file.seek(0)
        return file.read()
