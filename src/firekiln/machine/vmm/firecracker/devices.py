"""What a Firecracker machine may have beside what every machine has, as its API wants it. Pure.

The words and units are those of Firecracker's description of its API (`firecracker.yaml`).
"""

from __future__ import annotations

import re
from typing import Final

from firekiln.errors import UsageError
from firekiln.oci.config import Json
from firekiln.values import dataclass

_TAP: Final = re.compile(r"[^/\s:]{1,15}")
"""IFNAMSIZ less its NUL; what the kernel's `dev_valid_name` refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBucket:
    """`size` tokens (bytes, or operations) that refill within `refill_ms`; `burst` more of them once, at the start."""

    size: int
    refill_ms: int = 1000
    burst: int = 0

    def to_json(self) -> dict[str, Json]:
        made: dict[str, Json] = {"size": self.size, "refill_time": self.refill_ms}
        return {**made, "one_time_burst": self.burst} if self.burst else made


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """How much a device may move, by bytes and by operations; None: without limit."""

    bandwidth: TokenBucket | None = None
    operations: TokenBucket | None = None

    def to_json(self) -> dict[str, Json]:
        buckets = {"bandwidth": self.bandwidth, "ops": self.operations}
        return {name: bucket.to_json() for name, bucket in buckets.items() if bucket is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """A network interface of the host that carries the guest's frames; it is there before the machine starts."""

    name: str
    mac: str
    mtu: int | None = None
    receive: RateLimit | None = None
    send: RateLimit | None = None

    def __post_init__(self) -> None:
        if not _TAP.fullmatch(self.name) or self.name in {".", ".."}:
            raise UsageError(f"{self.name}: not a name for a network interface", hint="Linux takes 1 to 15 characters")

    def to_json(self, interface: str) -> dict[str, Json]:
        made: dict[str, Json] = {"iface_id": interface, "host_dev_name": self.name, "guest_mac": self.mac}
        if self.mtu is not None:
            made["mtu"] = self.mtu
        if self.receive is not None:
            made["rx_rate_limiter"] = self.receive.to_json()
        if self.send is not None:
            made["tx_rate_limiter"] = self.send.to_json()
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Balloon:
    """Memory that the host takes back: `mib` from the start on."""

    mib: int = 0
    deflate_on_oom: bool = True
    statistics_interval: int = 0
    """Seconds between two looks at the guest's memory; 0: none."""

    def to_json(self) -> dict[str, Json]:
        return {
            "amount_mib": self.mib,
            "deflate_on_oom": self.deflate_on_oom,
            "stats_polling_interval_s": self.statistics_interval,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """A machine's devices beside drives, channel and console. The limits hold for each drive, and for entropy."""

    tap: Tap | None = None
    balloon: Balloon | None = None
    drive_limit: RateLimit | None = None
    entropy_limit: RateLimit | None = None
