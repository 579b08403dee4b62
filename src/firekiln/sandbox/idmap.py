"""The ids of a user namespace: user_namespaces(7). Pure, and small: the spawner waits for its import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Range(NamedTuple):
    """`length` ids from `inside` on, seen in the namespace, are those from `outside` on for whoever made it."""

    inside: int
    outside: int
    length: int


class IdMap(NamedTuple):
    """Which ids there are. The first range of each begins with root's."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]

    def uid_inside(self, outside: int) -> int:
        """LookupError where the namespace has no such id, as below."""
        return _inside(self.uids, outside)

    def gid_inside(self, outside: int) -> int:
        return _inside(self.gids, outside)

    def encode(self) -> str:
        return "/".join(",".join(f"{a}:{b}:{c}" for a, b, c in ranges) for ranges in self)

    @classmethod
    def decode(cls, text: str) -> IdMap:
        parts = ([part.split(":") for part in ranges.split(",")] for ranges in text.split("/"))
        uids, gids = (tuple(Range(int(a), int(b), int(c)) for a, b, c in ranges) for ranges in parts)
        return cls(uids, gids)


def _inside(ranges: Sequence[Range], outside: int) -> int:
    for inside, start, length in ranges:
        if start <= outside < start + length:
            return inside + outside - start
    raise LookupError(f"a file belongs to id {outside}, which is none of this build's")
