"""When a machine is ready to be saved: its application serves."""

from __future__ import annotations

import json
import time
from typing import Final

from firekiln.errors import FirekilnError, MachineError
from firekiln.machine.machine import Machine
from firekiln.machine.supervision.live import read_live
from firekiln.machine.supervision.state import State

_LOOK_AGAIN: Final = 0.05
_SETTLED: Final = 2.0
"""Seconds after which a process is taken for ready that neither is checked nor exposes a port."""


def await_ready(state: State, machine: Machine, *, timeout: float) -> None:
    """Wait until its health check has succeeded; where it has none, until all exposed and published TCP ports are
    listened on; where there are none of those, two seconds from its start. MachineError where that doesn't come to be.
    """
    deadline = time.monotonic() + timeout
    while not _is_ready(state, machine):
        if machine.record.status not in ("created", "running", "restarting"):
            raise MachineError(f"{machine.name} has ended before it was ready")
        if time.monotonic() > deadline:
            raise MachineError(f"{machine.name} was not ready within {timeout:g} s")
        time.sleep(_LOOK_AGAIN)


def _is_ready(state: State, machine: Machine) -> bool:
    record, settings = machine.record, machine.settings
    live = read_live(state.folder_of(machine.id))
    if record.status != "running" or live is None:
        return False
    if settings.health:
        return live.health == "healthy"
    exposed = json.loads(record.config).get("ExposedPorts") or {}
    ports = {int(port.partition("/")[0]) for port in exposed if port.partition("/")[2] in ("", "tcp")}
    ports |= {port.guest_port for port in settings.spec.ports if port.protocol == "tcp"}
    if not ports:
        return time.time_ns() - live.started_ns > _SETTLED * 1e9
    try:
        return ports <= {*machine.figures("stats").get("listening", ())}
    except FirekilnError:  # it is just ending
        return False
