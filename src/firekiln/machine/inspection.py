"""What `inspect` says about a machine, in the shape of Docker's `GET /containers/{id}/json`."""

from __future__ import annotations

import json

from firekiln.machine.supervision.live import Live, read_live
from firekiln.machine.supervision.log import NAME as LOG_NAME
from firekiln.machine.supervision.log import timestamp
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.supervision.state import Record, State
from firekiln.machine.vmm.spec import PublishedPort, UserNetwork
from firekiln.oci.config import Json

_RUNS = ("running", "restarting")


def machine_inspect(state: State, word: str) -> dict[str, Json]:
    """The machine of that name, id or beginning of an id. ContainerNotFoundError."""
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
        "LogPath": str(state.folder_of(record.id) / LOG_NAME),
        "Name": f"/{record.name}",
        "RestartCount": live.restarts if live else 0,
        "Driver": "erofs",
        "Platform": "linux",
        "HostConfig": _host_config(settings),
        "Mounts": [point.inspected() for point in settings.mounts],
        "Config": config,
        "NetworkSettings": _network_settings(settings.spec.network, running=record.status in _RUNS),
    }


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
        "Running": record.status in _RUNS,
        "Paused": False,
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
    network = settings.spec.network
    return {
        "NetworkMode": "user" if network else "none",
        "PortBindings": port_map(network.ports if network else ()),
        "RestartPolicy": {"Name": settings.restart[0], "MaximumRetryCount": settings.restart[1]},
        "AutoRemove": settings.auto_remove,
        "Memory": settings.spec.memory,
        "NanoCpus": settings.spec.vcpus * 1_000_000_000,
        "Privileged": False,
        "ReadonlyRootfs": settings.read_only,
    }


def _network_settings(network: UserNetwork | None, *, running: bool) -> Json:
    if network is None:
        return {"Ports": {}}
    return {
        "Ports": port_map(network.ports) if running else {},
        "IPAddress": str(network.address.ip) if running else "",
        "IPPrefixLen": network.address.network.prefixlen if running else 0,
        "Gateway": str(network.gateway) if running else "",
        "MacAddress": network.mac,
    }
