"""The application as a unit of systemd. Pure.

Its syntax is systemd.syntax(7)'s, and that of command lines systemd.service(5)'s: `%` begins a specifier, in commands
`$` a variable; in quotes, C's escapes are undone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from firekiln.errors import MachineError
from firekiln.machine.guest.contract import Restart, WrittenFile
from firekiln.machine.process import Rlimit
from firekiln.machine.services.service import AGENT, NAME, Service, environment, is_plain_path, privilege_words

UNIT: Final = f"{NAME}.service"
_FOLDER: Final = "/etc/systemd/system"
_CONSOLES: Final = ("ttyS0", "ttyAMA0")
"""Nobody can log in there; and without udev the boot would wait 90 seconds for their devices."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_LIMITS: Final = frozenset(
    "cpu fsize data stack core rss nofile as nproc memlock locks sigpending msgqueue nice rtprio rttime".split()
)


def unit_files(service: Service) -> tuple[WrittenFile, ...]:
    """The unit, enabled, and the working directory where the image has none. MachineError for what no unit can say."""
    files = [
        WrittenFile(path=f"{_FOLDER}/{UNIT}", data=unit(service).encode()),
        WrittenFile(path=f"{_FOLDER}/multi-user.target.wants/{UNIT}", link=f"../{UNIT}"),
        *(WrittenFile(path=f"{_FOLDER}/serial-getty@{name}.service", link="/dev/null") for name in _CONSOLES),
    ]
    if service.make_cwd:
        line = f"d {quoted(service.process.cwd)} 0755 root root -\n"
        files.append(WrittenFile(path=f"/etc/tmpfiles.d/{NAME}.conf", data=line.encode()))
    return tuple(files)


def unit(service: Service) -> str:
    """The unit's text. MachineError for a working directory that no unit can name."""
    process = service.process
    if not is_plain_path(process.cwd):
        raise MachineError(
            f"the working directory {process.cwd!r} can't be written in a unit of systemd",
            hint="use another one (--workdir), or --init=firekiln",
        )
    said, unsaid = _divided(environment(service))
    lines = [
        "# Written by firekiln at each start: the image's ENTRYPOINT and CMD as a service.",
        "[Unit]",
        "Description=The application of this machine's image",
        "Wants=network-online.target",
        "After=network-online.target",
        *_start_limit(service.restart),
        "",
        "[Service]",
        *_user(service),
        f"WorkingDirectory={process.cwd.replace('%', '%%')}",
        *(f"Environment={quoted(word)}" for word in said),
        f"ExecStart={command((AGENT, 'connect', *_wrapped(service, unsaid), *process.argv))}",
        f"ExecStopPost=+{AGENT} exited $EXIT_STATUS",
        *_restart(service.restart),
        "KillMode=mixed",
        f"KillSignal={process.stop_signal}",
        f"TimeoutStopSec={_stop_timeout(service)}",
        *(f"Limit{limit.name.upper()}={_limit(limit)}" for limit in process.rlimits if limit.name in _LIMITS),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def command(words: Sequence[str]) -> str:
    """A command line that gives exactly these words: nothing of them is expanded."""
    return " ".join(quoted(word).replace("$", "$$") for word in words)


def quoted(word: str) -> str:
    """One word in quotes, for a line of a unit that undoes C's escapes and expands specifiers."""
    return '"' + "".join(map(_escaped, word)) + '"'


def _escaped(char: str) -> str:
    if char in ('"', "\\"):
        return "\\" + char
    if char == "%":
        return "%%"
    if char.isascii() and not char.isprintable():
        return f"\\x{ord(char):02x}"
    if "\udc80" <= char <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char


def _divided(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """The variables that Environment= takes, and those that only env(1) can set: odd names, bytes that are no text."""
    said: list[str] = []
    unsaid: list[str] = []
    for word in words:
        name, _, value = word.partition("=")
        fits = _NAME.fullmatch(name) is not None and _CONTROL.search(value) is None
        (said if fits else unsaid).append(word)
    return said, unsaid


def _wrapped(service: Service, unsaid: Sequence[str]) -> tuple[str, ...]:
    """What stands before the program's words."""
    words = () if service.user is not None else privilege_words(service)
    if not unsaid:
        return words
    if service.env is None:
        name = unsaid[0].partition("=")[0]
        raise MachineError(f"the variable {name!r} can't be set in a unit of systemd, and the image has no env(1)")
    return (*words, service.env, *unsaid)


def _user(service: Service) -> list[str]:
    """Ids that passwd lacks are refused by systemd, but not by setpriv(1), which the image then has to have."""
    if service.user is None:
        return []
    lines = [f"User={service.identity.uid}", f"Group={service.identity.gid}"]
    if service.identity.groups:
        lines.append(f"SupplementaryGroups={' '.join(map(str, service.identity.groups))}")
    return lines


def _start_limit(restart: Restart) -> list[str]:
    if restart.policy == "on-failure" and restart.retries:
        return ["StartLimitIntervalSec=infinity", f"StartLimitBurst={restart.retries + 1}"]
    return ["StartLimitIntervalSec=0"]


def _restart(restart: Restart) -> list[str]:
    match restart.policy:
        case "no":
            return ["Restart=no"]
        case "on-failure":
            return ["Restart=on-failure", "RestartSec=100ms"]
        case "always" | "unless-stopped":
            return ["Restart=always", "RestartSec=100ms"]


def _stop_timeout(service: Service) -> str:
    """0 would mean for ever."""
    return "infinity" if service.stop_timeout is None else f"{max(1, round(service.stop_timeout * 1000))}ms"


def _limit(limit: Rlimit) -> str:
    words = ["infinity" if value is None else str(value) for value in (limit.soft, limit.hard)]
    return ":".join(words)
