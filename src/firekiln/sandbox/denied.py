"""Why a step may have failed: it wanted what only a kernel of its own can give. Pure.

Nothing tells for sure: that a call was refused is no reason for a step to fail, and programs try what they can do
without. So a step that failed is judged by what it said at last, and by what it ran.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_PROGRAMS: Final = re.compile(
    rb"(?<![\w./-])(?:/\S*/)?(mount|umount|losetup|nft|ip6?tables(?:-\w+)?|ebtables|modprobe|insmod|swapon|unshare|nsenter|"
    rb"dmsetup|cryptsetup|sysctl|ip (?:-\S+ )*(?:link|addr|address|route|netns|rule|tuntap)|fusermount3?|mkinitramfs|"
    rb"debootstrap|mmdebstrap|bwrap|runc|dockerd|podman|buildah)(?![\w.-])"
)
_DENIED: Final = re.compile(
    rb"operation not permitted|permission denied|must be (?:root|superuser|run as root)|are you root|"
    rb"read-only file system|no (?:free|unused) loop|unused loop device|set up loop device|failed to setup loop|"
    rb"losetup: .*no such file",  # busybox's word for a loop device that is not there
    re.IGNORECASE,
)
_LAST: Final = 20
"""Lines of the output that are looked at: what came before is not what the step ended by."""

HINT: Final = "what needs a kernel of one's own (mounts, loop devices, nftables, modules) runs by --isolation=vm"


def advice(args: Sequence[str], said: bytes) -> str | None:
    """A hint for a step that failed, having run `args` and written `said` at last."""
    denials = [line for line in said.splitlines()[-_LAST:] if _DENIED.search(line)]
    if not denials:
        return None
    words = " ".join(args).encode(errors="surrogateescape")
    return HINT if any(_PROGRAMS.search(text) for text in (words, *denials)) else None
