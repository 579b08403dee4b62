"""What a clone's first boot starts from: `origin.json` in the machine's folder, until its supervisor has taken it.

Any later boot is an ordinary one, from the machine's own drives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from firekiln.errors import MachineError
from firekiln.machine.vmm.backend import Saved
from firekiln.values import dataclass

NAME = "origin.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The files of a snapshot; who the guest is to be, as THAW's `clone` says it; how healthy it was (see `Live`)."""

    saved: Saved
    clone: Mapping[str, Any]
    health: Mapping[str, Any]


def write_origin(folder: Path, origin: Origin) -> None:
    """OSError."""
    saved = {"memory": str(origin.saved.memory), "state": str(origin.saved.state)}
    (folder / NAME).write_text(json.dumps({**saved, "clone": dict(origin.clone), "health": dict(origin.health)}))


def take_origin(folder: Path) -> Origin | None:
    """The origin, which is forgotten; None where the machine boots. MachineError where the file is damaged."""
    path = folder / NAME
    try:
        data = json.loads(path.read_bytes())
        saved = Saved(memory=Path(data["memory"]), state=Path(data["state"]))
        origin = Origin(saved=saved, clone=data["clone"], health=data["health"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MachineError(f"{path} is damaged", hint="run the snapshot anew") from error
    with suppress(FileNotFoundError):
        path.unlink()
    return origin
