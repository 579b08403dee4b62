"""What `inspect` says about a machine, in the shape of Docker's `GET /containers/{id}/json`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from firekiln.machine.supervision.live import Live, read_live
from firekiln.machine.supervision.log import NAME as LOG_NAME
from firekiln.machine.supervision.log import timestamp
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.supervision.state import RUNS, Record, State
from firekiln.machine.vmm.spec import Nic, PublishedPort
from firekiln.oci.config import Json


def machine_inspect(state: State, word: str, *, sized: bool = False) -> dict[str, Json]:
    """The machine of that name, id or beginning of an id; with `sized` also what it takes. ContainerNotFoundError."""
    record = state.get(word)
    settings = Settings.decode(record.settings)
    config = json.loads(record.config)
    live = read_live(state.folder_of(record.id))
    argv = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]
    return {
        "Id": record.id,
        "Created": timestamp(record.created_ns),
        "Path": argv[0],
        "Args": list(argv[1:]),
        "State": _state(record, live),
        "Image": record.image_digest,
        "LogPath": str(state.folder_of(record.id) / LOG_NAME) if settings.log.is_kept else "",
        "Name": f"/{record.name}",
        "RestartCount": live.restarts if live else 0,
        "Driver": "erofs",
        "Platform": "linux",
        **(_sizes_json(state, record) if sized else {}),
        "HostConfig": _host_config(settings),
        "Mounts": [point.inspected() for point in settings.mounts],
        "Config": config,
        "NetworkSettings": _network_settings(settings.spec.nics, running=record.status in RUNS),
    }


def sizes(state: State, record: Record) -> tuple[int, int]:
    """Bytes on the host: of its own disk, which takes what was written, and of all that it boots from."""
    drives = Settings.decode(record.settings).spec.drives
    own = [drive for drive in drives if drive.path.parent == state.folder_of(record.id)]
    writable, everything = (
        sum(drive.path.stat().st_blocks * 512 for drive in group if drive.path.exists()) for group in (own, drives)
    )
    return writable, everything


def _sizes_json(state: State, record: Record) -> dict[str, Json]:
    writable, everything = sizes(state, record)
    return {"SizeRw": writable, "SizeRootFs": everything}


def port_map(ports: tuple[PublishedPort, ...]) -> dict[str, Json]:
    """Docker's map from the guest's ports to where they answer on the host."""
    made: dict[str, list[Json]] = {}
    for port in ports:
        place: Json = {"HostIp": str(port.host_ip), "HostPort": str(port.host_port)}
        made.setdefault(f"{port.guest_port}/{port.protocol}", []).append(place)
    return dict(made)


def _state(record: Record, live: Live | None) -> Json:
    health: dict[str, Json] = {"Health": _health(live)} if live and live.health else {}
    return {
        "Status": record.status,
        "Running": record.status in RUNS,
        "Paused": record.status == "paused",
        "Restarting": record.status == "restarting",
        "OOMKilled": record.oom,
        "Dead": False,
        "Pid": record.pid,
        "ExitCode": record.exit_status,
        "Error": record.error,
        "StartedAt": timestamp(record.started_ns),
        "FinishedAt": timestamp(record.finished_ns),
        **health,
    }


def _health(live: Live) -> Json:
    log: list[Json] = [
        {**entry, "Start": timestamp(entry["Start"]), "End": timestamp(entry["End"])} for entry in live.log
    ]
    return {"Status": live.health, "FailingStreak": live.streak, "Log": log}


def _host_config(settings: Settings) -> Json:
    return {
        "NetworkMode": settings.spec.nics[0].network if settings.spec.nics else "none",
        "PortBindings": port_map(settings.spec.ports),
        "RestartPolicy": {"Name": settings.restart[0], "MaximumRetryCount": settings.restart[1]},
        "AutoRemove": settings.auto_remove,
        "Annotations": dict(settings.annotations),
        "LogConfig": {"Type": settings.log.driver, "Config": dict(settings.log.options)},
        "Memory": settings.spec.memory,
        "NanoCpus": settings.spec.vcpus * 1_000_000_000,
        "Privileged": False,
        "ReadonlyRootfs": settings.read_only,
    }


def _network_settings(nics: Sequence[Nic], *, running: bool) -> Json:
    """Docker's fields of the old days are those of its default network: here of the first one."""
    ports = port_map(tuple(port for nic in nics for port in nic.ports))
    first = _endpoint(nics[0], running=running) if nics else {}
    shown = ("IPAddress", "IPPrefixLen", "Gateway", "MacAddress")
    return {
        "Ports": ports if running else {},
        **{name: first[name] for name in shown if name in first},
        "Networks": {nic.network: _endpoint(nic, running=running) for nic in nics},
    }


def _endpoint(nic: Nic, *, running: bool) -> dict[str, Json]:
    return {
        "MacAddress": nic.mac,
        "Gateway": str(nic.gateway) if running and not nic.is_internal else "",
        "IPAddress": str(nic.address.ip) if running else "",
        "IPPrefixLen": nic.address.network.prefixlen if running else 0,
    }
