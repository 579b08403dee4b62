"""A mount of a machine as it is kept with the machine: what `inspect` shows of it, and which volumes it uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from firekiln.machine.volumes.mountspec import Kind
from firekiln.oci.config import Json
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPoint:
    """One mount. `name` is a volume's; `source` the path on the host, "" for a tmpfs; `how` it reaches the guest:
    `drive`, `share` (what the machine writes is the host's), `copy` (it is not), `file` (such a copy, of a small file)
    or `memory`.
    """

    kind: Kind
    target: str
    source: str = ""
    name: str = ""
    read_only: bool = False
    how: str = "drive"

    def to_json(self) -> dict[str, Json]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MountPoint:
        return cls(**data)

    def inspected(self) -> Json:
        """As in Docker's `Mounts`."""
        made: dict[str, Json] = {"Type": self.kind}
        if self.name:
            made["Name"] = self.name
        made |= {"Source": self.source, "Destination": self.target}
        if self.kind == "volume":
            made["Driver"] = "local"
        return made | {
            "Mode": "ro" if self.read_only else "",
            "RW": not self.read_only,
            "Propagation": "rprivate" if self.kind == "bind" else "",
        }


def volumes_used(points: Iterable[MountPoint]) -> dict[str, bool]:
    """The names of the volumes among `points`, and whether each is only read."""
    used: dict[str, bool] = {}
    for point in points:
        if point.kind == "volume":
            used[point.name] = used.get(point.name, True) and point.read_only
    return used
