"""From a MachineSpec to what Firecracker is told: one file for `--config-file`, or requests to its API. Pure.

Both say the same: a key of the file is a path of the API. Fields and versions are those of Firecracker 1.14, the oldest
that is taken (see `version`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, cast

from firekiln.errors import UsageError
from firekiln.machine.vmm.firecracker.devices import Devices, RateLimit, Tap, TokenBucket
from firekiln.machine.vmm.spec import MIB, BlockDevice, DriveLimit, MachineSpec
from firekiln.oci.config import Json
from firekiln.values import dataclass

Method = Literal["GET", "PUT", "PATCH"]

GUEST_CID: Final = 3
"""The guest's address on its vsock; the host is 2. Each machine has a vsock of its own, so all have the same."""

MODULES: Final = "virtio_mmio virtio_blk vmw_vsock_virtio_transport virtio_net virtio_rng virtio_balloon".split()
"""What guests need of the kernel beside file systems; what it has built in is not among its modules."""

VCPU_LIMIT: Final = 32
INTERFACE: Final = "eth0"

_COMMON: Final = ("console=ttyS0", "quiet", "reboot=k", "panic=-1", "net.ifnames=0", "cryptomgr.notests")
_KEYBOARD: Final = ("i8042.noaux", "i8042.nomux", "i8042.dumbkbd")
COMMAND_LINE: Final = (*_COMMON, *_KEYBOARD)
"""Firecracker ends when the guest resets itself by the keyboard's controller, of which it has no more than that.

Its own default holds `nomodule`, so that words are always given. `pci=off` it adds itself unless started with
--enable-pci (since 1.13), which we don't (CVE-2026-5747 was there); `acpi=off` would cost the guest its devices, which
since 1.8 it finds by ACPI.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request to the API."""

    method: Method
    path: str
    body: dict[str, Json] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


START: Final = Request(method="PUT", path="/actions", body={"action_type": "InstanceStart"})
CONTROL_ALT_DELETE: Final = Request(method="PUT", path="/actions", body={"action_type": "SendCtrlAltDel"})
PAUSE: Final = Request(method="PATCH", path="/vm", body={"state": "Paused"})
RESUME: Final = Request(method="PATCH", path="/vm", body={"state": "Resumed"})


def configuration(spec: MachineSpec, devices: Devices, *, vsock: str) -> dict[str, Json]:
    """The file for `--config-file`. `vsock` is the path of the vsock's socket as Firecracker sees it.

    Drives come in the order of the specification, which is how the guest knows them: no serial can be chosen here. What
    is set on a drive that may be written: a guest's flush is one of the host's disk, too, so that its `sync` is true.
    UsageError for what Firecracker has no machine for.
    """
    if not 1 <= spec.vcpus <= VCPU_LIMIT:
        raise UsageError(f"{spec.vcpus} processors: Firecracker takes 1 to {VCPU_LIMIT}")
    if spec.shares:
        raise UsageError(
            f"Firecracker shares no folders of the host: {spec.shares[0].path}",
            hint="use a volume (-v NAME:/path), or run it by QEMU (--vmm qemu)",
        )
    if devices.tap is None and any(not nic.tap for nic in spec.nics):
        raise UsageError(
            "Firecracker has no user network: it takes frames from a tap interface",
            hint="run it by QEMU (--vmm qemu), or as root, which has networks on a bridge of the kernel",
        )
    made: dict[str, Json] = {
        "boot-source": {
            "kernel_image_path": str(spec.kernel),
            "initrd_path": str(spec.initramfs),
            "boot_args": kernel_command_line(spec),
        },
        "machine-config": {"vcpu_count": spec.vcpus, "mem_size_mib": spec.memory // MIB},
        "drives": [
            _drive(number, drive, devices.drive_limit or drive_limit(spec.drive_limit))
            for number, drive in enumerate(spec.drives)
        ],
        "network-interfaces": [tap.to_json(f"eth{number}") for number, tap in enumerate(_taps(spec, devices))],
        "vsock": {"guest_cid": GUEST_CID, "uds_path": vsock},
        "entropy": {} if devices.entropy_limit is None else {"rate_limiter": devices.entropy_limit.to_json()},
    }
    if devices.balloon is not None:
        made["balloon"] = devices.balloon.to_json()
    return made


def _taps(spec: MachineSpec, devices: Devices) -> list[Tap]:
    """The interfaces of its networks; `devices.tap`, which has limits perhaps, is the first."""
    taps = [Tap(name=nic.tap, mac=nic.mac) for nic in spec.nics if nic.tap]
    return taps if devices.tap is None else [devices.tap, *taps[1:]]


def drive_limit(limit: DriveLimit | None) -> RateLimit | None:
    """The limit as each drive has it. Firecracker counts reads and writes together, and each drive by itself.

    UsageError where the two differ.
    """
    if limit is None:
        return None
    for read, write in ((limit.read_bps, limit.write_bps), (limit.read_iops, limit.write_iops)):
        if read != write:
            raise UsageError(
                "Firecracker limits what a drive reads and writes together",
                hint="give --device-read-… and --device-write-… the same value, or run it by QEMU (--vmm qemu)",
            )
    return RateLimit(
        bandwidth=TokenBucket(size=limit.read_bps) if limit.read_bps else None,
        operations=TokenBucket(size=limit.read_iops) if limit.read_iops else None,
    )


def requests(made: dict[str, Json]) -> tuple[Request, ...]:
    """The requests that configure what the file `made` would, in its order; START is not among them."""
    found: list[Request] = []
    for key, value in made.items():
        match value:
            case list():
                items = cast("list[dict[str, Json]]", value)
                name = _IDENTIFIERS[key]
                found += [Request(method="PUT", path=f"/{key}/{item[name]}", body=item) for item in items]
            case dict():
                found.append(Request(method="PUT", path=f"/{key}", body=value))
    return tuple(found)


_IDENTIFIERS: Final = {"drives": "drive_id", "network-interfaces": "iface_id"}


def probe(kernel: Path) -> dict[str, Json]:
    """A bare kernel, which prints from its first moment, and panics for want of a root: the trial of KVM."""
    return {
        "boot-source": {
            "kernel_image_path": str(kernel),
            "boot_args": "console=ttyS0 earlyprintk=ttyS0 reboot=k panic=-1 cryptomgr.notests",
        },
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
        "drives": [],
    }


def kernel_command_line(spec: MachineSpec) -> str:
    """The kernel's words. arm64 has no such controller, and ends by PSCI, whatever `reboot=` says."""
    words = COMMAND_LINE if spec.architecture == "amd64" else _COMMON
    return " ".join((*words, *spec.command_line))


def _drive(number: int, drive: BlockDevice, limit: RateLimit | None) -> dict[str, Json]:
    made: dict[str, Json] = {
        "drive_id": f"drive{number}",
        "path_on_host": str(drive.path),
        "is_root_device": False,  # else Firecracker adds root=/dev/vda
        "is_read_only": drive.readonly,
        "cache_type": "Unsafe" if drive.readonly else "Writeback",
    }
    return {**made, "rate_limiter": limit.to_json()} if limit is not None else made
