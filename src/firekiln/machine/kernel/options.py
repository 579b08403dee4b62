"""A kernel's options: what a configuration asks for, what a build answers, and what a machine can do with it."""

from __future__ import annotations

import re
from collections.abc import Mapping

FEATURES: Mapping[str, str] = {
    "CONFIG_PVH": "pvh",
    "CONFIG_ACPI": "acpi",
    "CONFIG_VIRTIO_MMIO": "virtio-mmio",
    "CONFIG_VIRTIO_BLK": "virtio-blk",
    "CONFIG_VIRTIO_NET": "virtio-net",
    "CONFIG_VIRTIO_CONSOLE": "virtio-console",
    "CONFIG_HW_RANDOM_VIRTIO": "virtio-rng",
    "CONFIG_VIRTIO_VSOCKETS": "vsock",
    "CONFIG_OVERLAY_FS": "overlay",
    "CONFIG_EROFS_FS": "erofs",
    "CONFIG_EXT4_FS": "ext4",
    "CONFIG_SQUASHFS": "squashfs",
    "CONFIG_DM_VERITY": "dm-verity",
    "CONFIG_IP_PNP": "ip-pnp",
    "CONFIG_NET_9P_VIRTIO": "9p",
}
"""Kernel options and the features that they give, built in or as modules."""


_LINE = re.compile(r"^(?:(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set)$", re.MULTILINE)


def parse_options(text: str) -> dict[str, str]:
    """The options of a configuration (kconfig's `.config`, or a fragment of one), by name; "n" for those not set."""
    return {name or unset: value.strip() if name else "n" for name, value, unset in _LINE.findall(text)}


def unmet(wanted: Mapping[str, str], made: Mapping[str, str]) -> dict[str, str]:
    """Which of `wanted` did not take effect in `made`, and what they became: kconfig is silent about them.

    An option whose dependencies are not met, that was renamed, or that another one selects keeps kconfig's own value.
    """
    return {name: made.get(name, "n") for name, value in wanted.items() if made.get(name, "n") != value}


def features_of(options: Mapping[str, str]) -> frozenset[str]:
    """Which of FEATURES a kernel built with these options has."""
    return frozenset(feature for option, feature in FEATURES.items() if options.get(option) in {"y", "m"})
