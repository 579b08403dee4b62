"""Linux kernel images for arm64: the `Image` that a VMM puts into memory as it is.

The header is that of Documentation/arch/arm64/booting.rst: 64 bytes, at 56 the letters `ARM` and a byte 0x64.
Distributions ship it so, or compressed by gzip, which a boot loader would undo.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from firekiln.errors import MachineError

_MAGIC: Final = b"ARM\x64"
_PLACE: Final = 56
_LIMIT: Final = 1 << 30
"""A kernel larger than this is none."""


def extract_image(data: bytes) -> bytes:
    """The `Image` in `data`, which may be one already. MachineError where there is none."""
    if data.startswith(b"\x1f\x8b"):
        try:
            data = zlib.decompressobj(wbits=31).decompress(data, _LIMIT)
        except zlib.error as error:
            raise MachineError(f"the kernel is damaged: {error}") from error
    if not is_image(data):
        raise MachineError("the kernel is no Image for arm64", hint="give arch/arm64/boot/Image, or Image.gz")
    (size,) = struct.unpack_from("<Q", data, 16)  # with what is zero at its start; 0 before Linux 3.17
    if size and len(data) > size:
        raise MachineError("the kernel's Image is longer than it says")
    return data


def is_image(data: bytes) -> bool:
    return data[_PLACE : _PLACE + 4] == _MAGIC
