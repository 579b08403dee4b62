"""Digests as OCI's image specification writes them (descriptor.md): `sha256:` and 64 lower-case hexadecimal digits.

A digest is a plain string everywhere; whoever reads one from outside passes it through `check` first, since it
becomes a file's name.
"""

from __future__ import annotations

import hashlib
import re

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


def of(data: bytes) -> str:
    """The digest of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_valid(text: str) -> bool:
    """Whether `text` is a whole, well-formed sha256 digest: the only algorithm that a store keeps."""
    return _SHA256.fullmatch(text) is not None


def check(text: str) -> str:
    """`text` itself. ValueError where it is no digest."""
    if not is_valid(text):
        raise ValueError(f'"{text}" is no sha256 digest')
    return text


def encoded(digest: str) -> str:
    """The hexadecimal part. ValueError where `digest` is none."""
    return check(digest).partition(":")[2]
