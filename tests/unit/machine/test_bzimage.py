import bz2
import gzip
import lzma
import struct

import pytest

from firekiln.errors import MachineError
from firekiln.machine.kernel.arm64 import extract_image
from firekiln.machine.kernel.bzimage import extract_elf, payload

ELF = b"\x7fELF" + bytes(range(256)) * 512


def bzimage(compressed, *, version=0x20F, setup_sectors=3):
    header = bytearray((setup_sectors + 1) * 512)
    header[0x1F1] = setup_sectors
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x206, version)
    struct.pack_into("<II", header, 0x248, 64, len(compressed))
    return bytes(header) + bytes(64) + compressed + b"what follows the payload"


def lz4_literals(data):
    """LZ4 in its simplest form: one sequence of literals only."""
    rest = len(data) - 15
    lengths = b"\xff" * (rest // 255) + bytes([rest % 255])
    block = b"\xf0" + lengths + data
    return struct.pack("<I", len(block)) + block


@pytest.mark.parametrize(
    "compressed",
    [
        gzip.compress(ELF),
        lzma.compress(ELF),
        lzma.compress(ELF, format=lzma.FORMAT_ALONE),
        bz2.compress(ELF),
        b"\x02\x21\x4c\x18" + lz4_literals(ELF) + struct.pack("<I", len(ELF)),
        b"\x02\x21\x4c\x18" + lz4_literals(ELF[:1000]) + lz4_literals(ELF[1000:]) + struct.pack("<I", len(ELF)),
    ],
    ids=["gzip", "xz", "lzma", "bzip2", "lz4", "lz4 in two chunks"],
)
def test_the_elf_file_is_found_whatever_compressed_it(compressed):
    assert extract_elf(bzimage(compressed)) == ELF


def test_zstd_is_known_too():
    zstd = pytest.importorskip("backports.zstd")
    assert extract_elf(bzimage(zstd.compress(ELF) + struct.pack("<I", len(ELF)))) == ELF


def test_an_elf_file_is_taken_as_it_is():
    assert extract_elf(ELF) == ELF


def test_the_payload_begins_behind_the_setup_sectors():
    assert payload(bzimage(b"inside", setup_sectors=7)) == b"inside"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "neither an ELF file nor a bzImage"),
        (b"MZ" + bytes(5000), "neither an ELF file nor a bzImage"),
        (bzimage(gzip.compress(ELF), version=0x207), "older than 2.08"),
        (bzimage(gzip.compress(ELF))[:-100], "cut short"),
        (bzimage(b"unknown"), "in a way that is not known"),
        (bzimage(gzip.compress(b"no kernel")), "not an ELF file"),
        (bzimage(b"\x1f\x8b" + bytes(50)), "damaged"),
        (bzimage(b"\x02\x21\x4c\x18" + struct.pack("<I", 4) + b"\xff\xff\xff\xff"), "damaged"),
    ],
)
def test_what_is_no_kernel_is_refused_in_one_line(image, message):
    with pytest.raises(MachineError, match=message):
        extract_elf(image)


def arm64_image(size=0, extra=b""):
    return struct.pack("<QQQ32x", 0x91005A4D, 0, size) + b"ARM\x64" + bytes(68) + extra


def test_an_arm64_image_is_taken_as_it_is_or_unpacked():
    image = arm64_image(size=1 << 20)
    assert extract_image(image) == image
    assert extract_image(gzip.compress(image)) == image


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no Image"),
        (b"\x7fELF" + bytes(100), "no Image"),
        (gzip.compress(bytes(100)), "no Image"),
        (b"\x1f\x8b\x08 torn", "damaged"),
        (gzip.compress(arm64_image())[:20], "no Image"),
        (arm64_image(size=64), "longer than it says"),
    ],
)
def test_what_is_no_arm64_image_is_refused(data, message):
    with pytest.raises(MachineError, match=message):
        extract_image(data)
