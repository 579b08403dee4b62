"""An instruction's builder flags (`--name[=value]`) against those that it knows."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import field
from typing import Final

from firekiln.dockerfile.suggestions import did_you_mean
from firekiln.dockerfile.text import MalformedError
from firekiln.values import dataclass


class FlagType(enum.Enum):
    BOOL = enum.auto()
    STRING = enum.auto()
    STRINGS = enum.auto()
    """A string that may be given several times."""


_FILE_FLAGS: Final = {
    "chown": FlagType.STRING,
    "chmod": FlagType.STRING,
    "link": FlagType.BOOL,
    "exclude": FlagType.STRINGS,
}

KNOWN: Final[Mapping[str, Mapping[str, FlagType]]] = {
    "add": {**_FILE_FLAGS, "checksum": FlagType.STRING, "keep-git-dir": FlagType.BOOL, "unpack": FlagType.BOOL},
    "copy": {**_FILE_FLAGS, "from": FlagType.STRING, "parents": FlagType.BOOL},
    "from": {"platform": FlagType.STRING},
    "healthcheck": {
        "interval": FlagType.STRING,
        "timeout": FlagType.STRING,
        "start-period": FlagType.STRING,
        "start-interval": FlagType.STRING,
        "retries": FlagType.STRING,
    },
    "run": {
        "mount": FlagType.STRINGS,
        "network": FlagType.STRING,
        "security": FlagType.STRING,
        "device": FlagType.STRINGS,
    },
}
"""The flags of each instruction, its keyword in lower case. Those that are not here have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags that were given. What was not given has the type's default: "", (), False."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def string(self, name: str, default: str = "") -> str:
        return self.values[name][-1] if name in self.values else default

    def strings(self, name: str) -> tuple[str, ...]:
        return self.values.get(name, ())

    def switch(self, name: str) -> bool:
        return self.optional_switch(name) is True

    def optional_switch(self, name: str) -> bool | None:
        """None where the flag was not given."""
        return self.string(name) == "true" if name in self.values else None


def parse_flags(given: tuple[str, ...], known: Mapping[str, FlagType]) -> Flags:
    """MalformedError with BuildKit's reason for an unknown flag, one given twice, a missing or wrong value."""
    values: dict[str, tuple[str, ...]] = {}
    for text in given:
        name, separator, value = text.removeprefix("--").partition("=")
        if name not in known:
            raise MalformedError(f"unknown flag: --{name}{did_you_mean(name, known)}", span=f"--{name}")
        if name in values and known[name] is not FlagType.STRINGS:
            raise MalformedError(f"duplicate flag specified: --{name}", span=text)
        if known[name] is FlagType.BOOL:
            value = _bool(name, value if separator else "true")
        elif not separator:
            raise MalformedError(f"missing a value on flag: --{name}", span=f"--{name}")
        values[name] = (*values.get(name, ()), value)
    return Flags(values=values)


def _bool(name: str, value: str) -> str:
    if not value:
        raise MalformedError(f"missing a value on flag: --{name}", span=f"--{name}")
    if value.lower() not in ("true", "false"):
        raise MalformedError(f"expecting boolean value for flag --{name}, not: {value}", span=value)
    return value.lower()
