"""`top`: the processes of a machine in the columns that people ask ps(1) for.

The machine's kernel is asked, not a ps of its image, which need not have one. What that does not tell (STAT, VSZ) is a
dash.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

from firekiln.cli.machines import machine_state
from firekiln.cli.table import print_table
from firekiln.errors import FirekilnError, UsageError
from firekiln.machine.machine import Machine, not_running
from firekiln.values import dataclass

_WIDTH: Final = 20
_UNKNOWN: Final = "-"
_DAY: Final = 86400
_YEAR: Final = 365 * _DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process: what the guest says of it, when it started (epoch seconds), and what it is to be measured by."""

    said: Mapping[str, Any]
    started: float
    now: float
    memory: int

    @property
    def user(self) -> str:
        return str(self.said["user"] or self.said["uid"])

    @property
    def words(self) -> str:
        return " ".join(self.said["argv"])

    @property
    def age(self) -> float:
        return max(0.0, self.now - self.started)

    @property
    def share(self) -> float:
        """Of one processor, in percent, since its start."""
        return float(self.said["cpu_ms"]) / 10 / self.age if self.age else 0.0


Column = tuple[str, Callable[[Process], str]]


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    days, hours = divmod(hours, 24)
    return f"{f'{days}-' if days else ''}{hours:02}:{rest // 60:02}:{rest % 60:02}"


def _elapsed(seconds: float) -> str:
    text = _duration(seconds)
    return text.removeprefix("00:") if seconds < _DAY else text


def _short_time(milliseconds: int) -> str:
    return f"{milliseconds // 60_000}:{milliseconds // 1000 % 60:02}"


def _moment(process: Process) -> str:
    """As ps: the hour of what started within a day, the day of what is older, then the year."""
    form = "%H:%M" if process.age < _DAY else "%b%d" if process.age < _YEAR else "%Y"
    return time.strftime(form, time.localtime(process.started))


def _name(process: Process) -> str:
    words = process.said["argv"]
    return str(words[0]).rsplit("/", 1)[-1][:15] if words else ""


_COLUMNS: Final[Mapping[str, Column]] = {
    "pid": ("PID", lambda process: str(process.said["pid"])),
    "ppid": ("PPID", lambda process: str(process.said["ppid"])),
    "user": ("USER", lambda process: process.user),
    "uid": ("UID", lambda process: str(process.said["uid"])),
    "tty": ("TTY", lambda process: process.said["tty"] or "?"),
    "rss": ("RSS", lambda process: str(process.said["rss"] // 1024)),
    "vsz": ("VSZ", lambda _: _UNKNOWN),
    "stat": ("STAT", lambda _: _UNKNOWN),
    "c": ("C", lambda process: str(min(99, int(process.share)))),
    "pcpu": ("%CPU", lambda process: f"{process.share:.1f}"),
    "pmem": ("%MEM", lambda process: f"{100 * process.said['rss'] / process.memory:.1f}"),
    "bsdtime": ("TIME", lambda process: _short_time(process.said["cpu_ms"])),
    "time": ("TIME", lambda process: _duration(process.said["cpu_ms"] / 1000)),
    "etime": ("ELAPSED", lambda process: _elapsed(process.age)),
    "etimes": ("ELAPSED", lambda process: str(int(process.age))),
    "stime": ("STIME", _moment),
    "start": ("START", _moment),
    "lstart": ("STARTED", lambda process: time.asctime(time.localtime(process.started))),
    "comm": ("COMMAND", _name),
    "args": ("COMMAND", lambda process: process.words),
}
"""By the names of ps -o, each with its heading."""

_SAME: Final[Mapping[str, str]] = {
    "%cpu": "pcpu",
    "%mem": "pmem",
    "cmd": "args:CMD",
    "command": "args",
    "cputime": "time",
    "euid": "uid:EUID",
    "euser": "user:EUSER",
    "rssize": "rss",
    "rsz": "rss:RSZ",
    "ruser": "user:RUSER",
    "s": "stat:S",
    "start_time": "start",
    "state": "stat:S",
    "tname": "tty",
    "tt": "tty:TT",
    "ucmd": "comm:CMD",
    "uname": "user",
    "vsize": "vsz",
}
"""Other names of these, some with other headings."""

_FULL: Final = "user:UID pid ppid c stime tty time cmd"
_OF_USERS: Final = "user pid pcpu pmem vsz rss tty stat start bsdtime args"
_EVERY: Final = "pid tty time ucmd"
_BSD: Final = "pid tty stat bsdtime args"


def parse_options(words: Sequence[str]) -> list[Column]:
    """The columns that options of ps choose: -ef, aux, -o LIST and their like. None: as -ef. UsageError.

    Which processes they choose doesn't matter: as with Docker, it is those of the machine, all of them.
    """
    given = iter(words)
    form, lists = (_BSD, "") if words and not words[0].startswith("-") else (_EVERY, "")
    if not words:
        return _columns(_FULL)
    for word in given:
        if word == "--format" or word.startswith("--format="):
            lists += f",{word.partition('=')[2] or next(given, '')}"
            continue
        letters = word.removeprefix("-")
        for position, letter in enumerate(letters):
            if letter == "o":
                lists += f",{letters[position + 1 :] or next(given, '')}"
                break
            if letter not in ("eAfwaxuw" if word.startswith("-") else "axuwe"):
                raise _unknown(f"unsupported option: {word}")
            form = _FULL if letter == "f" else _OF_USERS if letter == "u" and word[0] != "-" else form
    return _columns(lists.replace(",", " ")) if lists else _columns(form)


def _columns(text: str) -> list[Column]:
    """Names of columns, each perhaps with another heading behind a colon, or, as ps has it, an equals sign."""
    made = []
    for word in text.split():
        name, _, heading = word.replace("=", ":").partition(":")
        same, _, usual = _SAME.get(name.lower(), name.lower()).partition(":")
        if same not in _COLUMNS:
            raise _unknown(f'unknown user-defined format specifier "{name}"')
        made.append((heading or usual or _COLUMNS[same][0], _COLUMNS[same][1]))
    if not made:
        raise _unknown("-o wants names of columns")
    return made


def _unknown(what: str) -> UsageError:
    error = UsageError(f"ps: error: {what}", hint=f"-ef, aux and -o with some of {', '.join(_COLUMNS)} are known")
    error.exit_status = FirekilnError.exit_status
    return error


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("machine")
@click.argument("options", nargs=-1, metavar="[PS OPTIONS]", type=click.UNPROCESSED)
@click.pass_context
def top(ctx: click.Context, machine: str, options: Sequence[str]) -> None:
    """List the processes of a machine, as ps does (-ef, aux, -o)."""
    state = machine_state(ctx)
    record = state.get(machine)
    if record.status not in ("running", "paused"):
        raise not_running(record)
    columns = parse_options(options)
    found = Machine(state, record.id)
    said = found.figures("top")["processes"]
    # The guest counts from its boot, and the host knows when the machine's process started, its oldest.
    boot = record.started_ns / 1e9 - min((process["start_ms"] for process in said), default=0) / 1000
    memory = found.settings.spec.memory
    rows = [
        Process(said=process, started=boot + process["start_ms"] / 1000, now=time.time(), memory=memory)
        for process in said
    ]
    cells = [[show(process) for _, show in columns] for process in rows]
    print_table([heading for heading, _ in columns], cells, least=_WIDTH)
