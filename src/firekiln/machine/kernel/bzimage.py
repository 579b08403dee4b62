"""Linux kernel images for x86: the ELF file inside a bzImage.

A VMM that boots by PVH wants the ELF; and a guest that need not decompress its own kernel starts sooner. The header is
that of Documentation/arch/x86/boot.rst ("The Linux/x86 Boot Protocol"), version 2.08 and later, which gives the place
of the compressed payload; the payload's last four bytes are the size of what is inside (absent for gzip, which has it
anyway).
"""

from __future__ import annotations

import bz2
import ctypes
import lzma
import struct
import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from firekiln.errors import MachineError, MissingProgramError

ELF_MAGIC = b"\x7fELF"
_HEADER = 0x202
_LZ4_LEGACY = 0x184C2102
_LZ4_CHUNK = 8 << 20
_LIMIT = 1 << 30
"""A kernel larger than this is none: hostile payloads must not fill the memory."""


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def extract_elf(image: bytes) -> bytes:
    """The ELF file in `image`, which may be an ELF file already. MachineError where there is none."""
    if image.startswith(ELF_MAGIC):
        return image
    elf = _decompress(payload(image))
    if not elf.startswith(ELF_MAGIC):
        raise MachineError("the kernel image's payload is not an ELF file")
    return elf


def payload(image: bytes) -> bytes:
    """The compressed part of a bzImage. MachineError where `image` is none."""
    if len(image) < 0x250 or image[_HEADER : _HEADER + 4] != b"HdrS":
        raise MachineError(
            "the kernel is neither an ELF file nor a bzImage", hint="give a vmlinux (ELF), or a vmlinuz for x86-64"
        )
    (version,) = struct.unpack_from("<H", image, 0x206)
    if version < 0x208:
        raise MachineError(f"the kernel's boot protocol {version >> 8}.{version & 255:02} is older than 2.08")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    if start + length > len(image):
        raise MachineError("the kernel image is cut short")
    return image[start : start + length]


def _decompress(data: bytes) -> bytes:
    for magic, decompress in _METHODS.items():
        if data.startswith(magic):
            return decompress(data)
    raise MachineError(f"the kernel is compressed in a way that is not known here (it begins with {data[:6].hex()})")


def _by(make: Callable[[], _Decompressor]) -> Callable[[bytes], bytes]:
    def decompress(data: bytes) -> bytes:
        try:
            return make().decompress(data, _LIMIT)
        except (lzma.LZMAError, zlib.error, OSError) as error:
            raise MachineError(f"the kernel's payload is damaged: {error}") from error

    return decompress


def _zstd(data: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415 - few kernels need it
    else:
        from backports import zstd  # noqa: PLC0415 - ditto

    try:
        return zstd.ZstdDecompressor().decompress(data, _LIMIT)
    except zstd.ZstdError as error:
        raise MachineError(f"the kernel's payload is damaged: {error}") from error


def _lz4_legacy(data: bytes) -> bytes:
    """LZ4's legacy frame: its magic, then chunks of at most 8 MiB, each after its compressed size.

    The library is libapt-pkg's, systemd's and RPM's dependency and so on every host that this runs on; a wheel of our
    own choice would be a dependency for one call.
    """
    try:
        library = ctypes.CDLL("liblz4.so.1")
    except OSError as error:
        raise MissingProgramError(
            "the kernel is compressed by LZ4 and the library liblz4.so.1 is absent", hint="apt-get install liblz4-1"
        ) from error
    buffer = ctypes.create_string_buffer(_LZ4_CHUNK)
    parts: list[bytes] = []
    position = 0
    while position + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, position)
        position += 4
        if size == _LZ4_LEGACY:
            continue
        if position + size > len(data):
            break  # not a chunk but the uncompressed size, which ends the payload
        written = library.LZ4_decompress_safe(data[position : position + size], buffer, size, _LZ4_CHUNK)
        if written < 0 or len(parts) * _LZ4_CHUNK > _LIMIT:
            raise MachineError("the kernel's payload is damaged: an LZ4 chunk does not decompress")
        parts.append(ctypes.string_at(buffer, written))
        position += size
    return b"".join(parts)


_METHODS: dict[bytes, Callable[[bytes], bytes]] = {
    struct.pack("<I", _LZ4_LEGACY): _lz4_legacy,
    b"\x1f\x8b": _by(lambda: zlib.decompressobj(wbits=31)),
    b"\xfd7zXZ\x00": _by(lzma.LZMADecompressor),
    b"BZh": _by(bz2.BZ2Decompressor),
    b"\x5d\x00\x00": _by(lambda: lzma.LZMADecompressor(format=lzma.FORMAT_ALONE)),
    b"\x28\xb5\x2f\xfd": _zstd,
}
