"""What streams are compressed with. Apart from `compression.py`, whose codecs take longer to import than most need."""

from __future__ import annotations

import enum
from typing import Final


class Compression(enum.StrEnum):
    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"


_MAGIC: Final = {
    b"\x1f\x8b": Compression.GZIP,
    b"\x28\xb5\x2f\xfd": Compression.ZSTD,
    b"\xfd7zXZ\0": Compression.XZ,
    b"BZh": Compression.BZIP2,
}


def detect(head: bytes) -> Compression:
    """What a stream is that begins with these bytes (six are enough)."""
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), Compression.NONE)
