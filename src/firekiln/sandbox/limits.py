"""What a step may use: docker's `--memory`, `--cpus`, `--ulimit`, `--shm-size` as values. Pure."""

from __future__ import annotations

from typing import Final

from firekiln.values import dataclass

LEAST_MEMORY: Final = 6 << 20
"""Docker's: below that no process starts."""
SHM_SIZE: Final = 64 << 20

# asm-generic/resource.h: the numbers of x86-64 and arm64
_RESOURCES: Final = {
    name: number
    for number, name in enumerate(
        "cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice rtprio rttime".split()
    )
    if name != "as"  # docker has none
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit:
    """One resource limit, setrlimit(2); -1 is unlimited."""

    name: str
    soft: int
    hard: int

    @classmethod
    def parse(cls, text: str) -> Ulimit:
        """`NAME=SOFT[:HARD]`. ValueError with docker's words where it is none."""
        name, equals, values = text.partition("=")
        if not equals:
            raise ValueError(f"invalid ulimit argument: {text}")
        if name not in _RESOURCES:
            raise ValueError(f"invalid ulimit type: {name}")
        soft, colon, hard = values.partition(":")
        made = cls(name=name, soft=_number(soft), hard=_number(hard if colon else soft))
        if made.hard != -1 and (made.soft == -1 or made.soft > made.hard):
            raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {made.soft} > {made.hard}")
        return made

    @property
    def resource(self) -> int:
        """The kernel's number."""
        return _RESOURCES[self.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """One step's limits. `memory` (bytes) and `cpus` are 0 where there is none; `shm_size` is that of /dev/shm."""

    memory: int = 0
    cpus: float = 0.0
    ulimits: tuple[Ulimit, ...] = ()
    shm_size: int = SHM_SIZE


def _number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -2
    if number < -1:
        raise ValueError(f"invalid ulimit value: {text}")
    return number
