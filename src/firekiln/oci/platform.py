"""Platforms as OCI's image index and `--platform` name them: `os/architecture[/variant]`.

The normal forms are containerd's (`platforms.Normalize`): x86_64 is amd64, aarch64 is arm64, arm64/v8 is arm64.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "i386": ("386", ""),
}
_KNOWN_OS = frozenset(
    "aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9 solaris windows "
    "zos".split()
)


@dataclass(frozen=True, slots=True)
class Platform:
    """A normalised platform; `str` gives `linux/amd64` or `linux/arm/v7`."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    @classmethod
    def host(cls) -> Platform:
        return cls._normal("linux", os.uname().machine, "")

    @classmethod
    def parse(cls, text: str) -> Platform:
        """`linux/amd64`, `linux/arm64/v8`, `amd64`, `linux`. ValueError with containerd's words where it is none."""
        parts = text.split("/")
        if not 1 <= len(parts) <= 3:
            raise ValueError(f'"{text}": cannot parse platform specifier')
        for part in parts:
            if not part or not all(c.isascii() and (c.isalnum() or c in "_-.") for c in part):
                raise ValueError(
                    f'"{part}" is an invalid component of "{text}": '
                    'platform specifier component must match "^[A-Za-z0-9_.-]+$"'
                )
        if len(parts) == 1:
            return cls._from_one(parts[0].lower())
        variant = parts[2] if len(parts) == 3 else ""
        return cls._normal(parts[0], parts[1], variant)

    @classmethod
    def _from_one(cls, word: str) -> Platform:
        host = cls.host()
        if word in _KNOWN_OS:
            return cls(word, host.architecture, host.variant)
        return cls._normal("linux", word, "")

    @classmethod
    def _normal(cls, system: str, architecture: str, variant: str) -> Platform:
        system, architecture, variant = system.lower(), architecture.lower(), variant.lower()
        architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
        variant = variant or implied
        if architecture == "arm64" and variant in ("8", "v8"):
            variant = ""
        if architecture == "amd64" and variant == "v1":
            variant = ""
        if architecture == "arm" and variant in ("", "7"):
            variant = "v7"
        if architecture == "arm" and variant in ("5", "6", "8"):
            variant = "v" + variant
        return cls("darwin" if system == "macos" else system, architecture, variant)
