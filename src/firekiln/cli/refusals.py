"""Docker's flags of `run` and `create` that a machine cannot obey: why each cannot, and what to do instead.

They are known so that they can be refused: an unknown option would look like a slip of the pen, and silence would lose
what they ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from firekiln.errors import UsageError

_DEVICES: Final = (
    "no device of the host is passed into a machine",
    "-v mounts folders of the host, -p publishes ports",
)
_NAMESPACES: Final = (
    "a machine shares no namespace with the host or with another one",
    "leave it out; --network NAME puts machines on a network, and a volume may be mounted in several",
)
_PROCESSORS: Final = (
    "a machine has whole processors of its own",
    "--cpus NUMBER; taskset and nice of the host hold too",
)
_MEMORY: Final = (
    "a machine has its memory to itself, and swaps to no disk of the host",
    "-m SIZE says how much that is",
)
_DISK: Final = ("the drives of a machine have no weight", "--device-read-bps and its like limit their speed")
_OOM: Final = (
    "in a machine its own kernel decides what to kill when memory is short",
    "-m SIZE; echo NUMBER >/proc/PID/oom_score_adj in the machine",
)

REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    "--privileged": (
        "a machine has a kernel of its own, and its root every right over that already",
        "leave it out; -u root where the image says otherwise",
    ),
    "--cap-add": (
        "root in a machine has all capabilities already",
        "leave it out; -u root where the image says otherwise",
    ),
    "--cap-drop": (
        "root in a machine keeps its capabilities: they reach no further than the machine's own kernel",
        "-u NAME runs the process without them",
    ),
    "--gpus": _DEVICES,
    "--device": _DEVICES,
    "--device-cgroup-rule": _DEVICES,
    "--pid": _NAMESPACES,
    "--ipc": _NAMESPACES,
    "--uts": _NAMESPACES,
    "--userns": _NAMESPACES,
    "--cgroupns": _NAMESPACES,
    "--cgroup-parent": (
        "a machine's VMM stays in the control group of whoever starts it",
        "systemd-run --scope --slice=NAME firekiln run …",
    ),
    "--domainname": (
        "a machine's host name is said in one",
        "-h NAME.DOMAIN; --dns-search DOMAIN has short names looked up in it",
    ),
    "--security-opt": (
        "profiles of seccomp, AppArmor and SELinux confine processes of the host's kernel: a machine has its own",
        "leave it out; docs/reference/machines.md says what confines the VMM",
    ),
    "--runtime": ("a machine is run by a VMM, not by an OCI runtime", "--vmm chooses among those"),
    "--isolation": (
        "a machine is isolated by virtualization, always",
        "leave it out; `firekiln build` has --isolation",
    ),
    "--link": ("links are Docker's way of before networks", "--network NAME: machines on it know each other by name"),
    "--volumes-from": ("another machine's mounts are not taken over", "-v NAME:PATH mounts the same volume in both"),
    "--volume-driver": ("volumes are drives of this host", "-v NAME:PATH, firekiln volume create"),
    "--storage-opt": ("a machine's disk is a file system of its own", "--disk-size SIZE says how large"),
    "--cpuset-cpus": _PROCESSORS,
    "--cpuset-mems": _PROCESSORS,
    "--cpu-shares": _PROCESSORS,
    "--cpu-period": _PROCESSORS,
    "--cpu-quota": _PROCESSORS,
    "--cpu-rt-period": _PROCESSORS,
    "--cpu-rt-runtime": _PROCESSORS,
    "--memory-swap": _MEMORY,
    "--memory-swappiness": _MEMORY,
    "--memory-reservation": _MEMORY,
    "--kernel-memory": _MEMORY,
    "--oom-kill-disable": _OOM,
    "--oom-score-adj": _OOM,
    "--pids-limit": (
        "processes of a machine are bounded by its memory",
        "--ulimit nproc=NUMBER bounds those of a user",
    ),
    "--blkio-weight": _DISK,
    "--blkio-weight-device": _DISK,
    "--disable-content-trust": (
        "Docker's content trust is not supported: what is pulled is what its digest says",
        "name the image by its digest, NAME@sha256:…",
    ),
}
"""The flag: why not, what instead."""

_SWITCHES: Final = frozenset(["--privileged", "--oom-kill-disable", "--disable-content-trust"])


def refuse_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags that are refused; its help does not show them."""
    for name, (reason, hint) in REFUSED.items():
        switch = name in _SWITCHES
        callback = _refusal(name, reason, hint)
        option = click.option(
            name, is_flag=switch, multiple=not switch, expose_value=False, hidden=True, callback=callback
        )
        command = option(command)
    return command


def _refusal(name: str, reason: str, hint: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(_ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:
            raise UsageError(f"{name}: {reason}", hint=hint)

    return callback
