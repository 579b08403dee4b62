"""What a supervisor needs to run a machine, kept with the machine so that another process can."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from firekiln.machine.supervision.logconfig import LogConfig
from firekiln.machine.vmm.spec import BlockDevice, DriveLimit, MachineSpec, Nic, PublishedPort, SharedFolder, VmmName
from firekiln.machine.volumes.mountpoint import MountPoint
from firekiln.oci.config import Json
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The machine and how it is to be stopped. `stop_timeout` is in seconds; `kernel_digest` that of `spec.kernel`.

    `auto_remove`: nothing of the machine is kept when it has ended. `open_stdin`: its process has a standard input;
    `stdin_once`: which ends when the owner's does. `restart` is a policy and its retries (0: without limit); `health`:
    the guest runs a check, whose next result comes within so many seconds (`health_limit`), so many failures making it
    unhealthy; `read_only`: its process finds its root so. `annotations` are only shown.
    """

    spec: MachineSpec
    kernel_digest: str
    stop_signal: int
    stop_timeout: float
    auto_remove: bool = False
    mounts: tuple[MountPoint, ...] = ()
    open_stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    restart: tuple[str, int] = ("no", 0)
    health: bool = False
    health_limit: tuple[float, int] = (0.0, 0)
    read_only: bool = False
    vmm: VmmName = "qemu"
    log: LogConfig = field(default_factory=LogConfig)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> str:
        return json.dumps(
            {
                "spec": _spec_json(self.spec),
                "kernel_digest": self.kernel_digest,
                "stop_signal": self.stop_signal,
                "stop_timeout": self.stop_timeout,
                "auto_remove": self.auto_remove,
                "mounts": [point.to_json() for point in self.mounts],
                "restart": list(self.restart),
                "health_limit": list(self.health_limit),
                "vmm": self.vmm,
                "log": self.log.to_json(),
                "annotations": dict(self.annotations),
                **{name: getattr(self, name) for name in _FLAGS},
            }
        )

    @classmethod
    def decode(cls, text: str) -> Settings:
        data = json.loads(text)
        return cls(
            spec=_spec(data["spec"]),
            kernel_digest=data["kernel_digest"],
            stop_signal=data["stop_signal"],
            stop_timeout=data["stop_timeout"],
            auto_remove=data["auto_remove"],
            mounts=tuple(MountPoint.from_json(point) for point in data.get("mounts", ())),
            restart=(data["restart"][0], data["restart"][1]) if "restart" in data else ("no", 0),
            health_limit=(data["health_limit"][0], data["health_limit"][1]) if "health_limit" in data else (0.0, 0),
            vmm=data.get("vmm", "qemu"),
            log=LogConfig.parse(data["log"]["driver"], data["log"]["options"]) if "log" in data else LogConfig(),
            annotations=data.get("annotations", {}),
            **{name: data.get(name, False) for name in _FLAGS},
        )


_FLAGS = ("open_stdin", "stdin_once", "tty", "health", "read_only")


def _spec_json(spec: MachineSpec) -> dict[str, Json]:
    return {
        "name": spec.name,
        "architecture": spec.architecture,
        "kernel": str(spec.kernel),
        "initramfs": str(spec.initramfs),
        "drives": [{"serial": d.serial, "path": str(d.path), "readonly": d.readonly} for d in spec.drives],
        "command_line": list(spec.command_line),
        "vcpus": spec.vcpus,
        "memory": spec.memory,
        "nics": [_nic_json(nic) for nic in spec.nics],
        "drive_limit": _limit_json(spec.drive_limit) if spec.drive_limit else None,
        "shares": [{"tag": s.tag, "path": str(s.path), "readonly": s.readonly} for s in spec.shares],
    }


def _spec(data: dict[str, Any]) -> MachineSpec:
    return MachineSpec(
        name=data["name"],
        architecture=data["architecture"],
        kernel=Path(data["kernel"]),
        initramfs=Path(data["initramfs"]),
        drives=tuple(
            BlockDevice(serial=d["serial"], path=Path(d["path"]), readonly=d["readonly"]) for d in data["drives"]
        ),
        command_line=tuple(data["command_line"]),
        vcpus=data["vcpus"],
        memory=data["memory"],
        nics=tuple(map(_nic, data["nics"])),
        drive_limit=DriveLimit(**data["drive_limit"]) if data.get("drive_limit") else None,
        shares=tuple(
            SharedFolder(tag=s["tag"], path=Path(s["path"]), readonly=s["readonly"]) for s in data.get("shares", ())
        ),
    )


def _limit_json(limit: DriveLimit) -> dict[str, Json]:
    return {name: getattr(limit, name) for name in ("read_bps", "write_bps", "read_iops", "write_iops")}


def _nic_json(nic: Nic) -> dict[str, Json]:
    return {
        "mac": nic.mac,
        "network": nic.network,
        "address": str(nic.address),
        "gateway": str(nic.gateway),
        "nameserver": str(nic.nameserver),
        "ports": [
            {"ip": str(p.host_ip), "host": p.host_port, "guest": p.guest_port, "protocol": p.protocol}
            for p in nic.ports
        ],
        "folder": str(nic.folder) if nic.folder else None,
        "tap": nic.tap,
        "bridge": nic.bridge,
        "is_internal": nic.is_internal,
    }


def _nic(data: dict[str, Any]) -> Nic:
    return Nic(
        mac=data["mac"],
        network=data["network"],
        address=IPv4Interface(data["address"]),
        gateway=IPv4Address(data["gateway"]),
        nameserver=IPv4Address(data["nameserver"]),
        ports=tuple(
            PublishedPort(
                host_ip=IPv4Address(p["ip"]), host_port=p["host"], guest_port=p["guest"], protocol=p["protocol"]
            )
            for p in data["ports"]
        ),
        folder=Path(data["folder"]) if data["folder"] else None,
        tap=data["tap"],
        bridge=data["bridge"],
        is_internal=data["is_internal"],
    )
