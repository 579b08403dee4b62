"""What a running machine's supervisor knows of it: `live.json` in the machine's folder, replaced whenever that changes.

It holds as long as the machine's lock is held; of a machine that has ended it tells its last state of health. So the
supervisor needs no database while it waits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firekiln.machine.guest.reports import Health
from firekiln.values import dataclass

NAME = "live.json"
HEALTH_LOG = 5
"""Results of the health check that are kept, as Docker does."""
TIMED_OUT = -1
"""The exit code of a check that took too long, Docker's too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """`status` is `running` or `restarting`; `pid` the VMM's; `restarts` counts those of the process and the machine.

    `health` is "" where nothing is checked, else `starting`, `healthy` or `unhealthy`; `log` holds the last results in
    the shape of Docker's State.Health.Log but for the times, which are ns since the epoch.
    """

    status: str = "running"
    pid: int = 0
    started_ns: int = 0
    restarts: int = 0
    health: str = ""
    streak: int = 0
    log: tuple[Mapping[str, Any], ...] = ()


def with_result(live: Live, result: Health) -> Live:
    """After one more result of the health check."""
    output = result.output
    if result.code == TIMED_OUT:  # said as Docker says it, but for the time
        output = f"Health check exceeded timeout{': ' if output else ''}{output}"
    entry = {"Start": result.start_ns, "End": result.end_ns, "ExitCode": result.code, "Output": output}
    return replaced(live, health=result.status, streak=result.streak, log=(*live.log, entry)[-HEALTH_LOG:])


def replaced(live: Live, **changes: Any) -> Live:
    """A copy with some fields changed."""
    fields = "status pid started_ns restarts health streak log".split()
    return Live(**{name: getattr(live, name) for name in fields} | changes)


def write_live(folder: Path, live: Live) -> None:
    """OSError where the disk is full: what was there stays."""
    fields = "status pid started_ns restarts health streak".split()
    data = {name: getattr(live, name) for name in fields} | {"log": [*map(dict, live.log)]}
    temporary = folder / f".{NAME}"
    temporary.write_text(json.dumps(data))
    os.replace(temporary, folder / NAME)  # noqa: PTH105 - the same


def read_live(folder: Path) -> Live | None:
    """None where the machine never ran."""
    try:
        data = json.loads((folder / NAME).read_bytes())
        return Live(**{**data, "log": tuple(data["log"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_live(folder: Path) -> None:
    """Before the machine is booted anew."""
    (folder / NAME).unlink(missing_ok=True)
