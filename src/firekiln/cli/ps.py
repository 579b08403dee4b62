"""`firekiln ps`: the machines that were run."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import click

from firekiln.cli.machines import machine_state
from firekiln.cli.table import human_duration, human_size, print_table
from firekiln.cli.template import print_each
from firekiln.errors import FirekilnError, UsageError
from firekiln.machine.inspection import sizes
from firekiln.machine.supervision.live import Live, read_live
from firekiln.machine.supervision.settings import Settings
from firekiln.machine.supervision.state import RUNS, Record, State
from firekiln.oci.reference import Reference

_COMMAND_WIDTH = 20
_MOUNT_WIDTH = 15
_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "\\": r"\\"}
_SHORT_ID = 12
_HEALTH = {"starting": "health: starting"}
"""What `docker ps` says of a state of health, where that is not its name."""


@click.command
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that do not run.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="By ancestor, before, exited, health, id, label, name, publish, since, status or volume.",
)
@click.option("-n", "--last", type=int, default=-1, metavar="NUMBER", help="The youngest ones, running or not.")
@click.option("-l", "--latest", is_flag=True, help="The youngest one, running or not.")
@click.option("-s", "--size", "sized", is_flag=True, help="Show what their disks take.")
@click.option("--no-trunc", is_flag=True, help="Ids and commands in full.")
@click.option("--format", "style", metavar="FORMAT", default="table", help="table, json, or a template.")
@click.pass_context
def ps(  # noqa: PLR0917 - click passes them by keyword
    ctx: click.Context,
    everything: bool,
    quiet: bool,
    filters: Sequence[str],
    last: int,
    latest: bool,
    sized: bool,
    no_trunc: bool,
    style: str,
) -> None:
    """List machines."""
    state = machine_state(ctx)
    wanted = [parse_filter(text, state) for text in filters]
    last = 1 if latest else last
    shown = everything or last > 0 or any(text.startswith(("status=", "exited=")) for text in filters)
    records = [record for record in state.list() if shown or record.status in RUNS]
    records = [record for record in records if _passes(record, wanted)][: last if last > 0 else None]
    if quiet:
        for record in records:
            click.echo(record.id if no_trunc else record.id[:_SHORT_ID])
        return
    described = [describe(record, read_live(state.folder_of(record.id)), no_trunc=no_trunc) for record in records]
    if sized or ".Size" in style:
        for record, fields in zip(records, described, strict=True):
            fields["Size"] = _size(state, record)
    if style != "table":
        print_each(style, described)
        return
    columns: tuple[str, ...] = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")
    heading: tuple[str, ...] = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")
    if sized:
        columns, heading = (*columns, "Size"), (*heading, "SIZE")
    print_table(heading, [[fields[column] for column in columns] for fields in described])


Filter = tuple[str, Callable[[Record], bool]]
"""A key, and what it asks of a machine. Filters of one key are alternatives, as with Docker."""


def parse_filter(text: str, state: State) -> Filter:
    """`KEY=VALUE` of `--filter`. UsageError."""
    key, equals, value = text.partition("=")

    def moment(word: str) -> tuple[int, str]:
        other = state.get(word)
        return other.created_ns, other.id

    ports = _port_range(value) if key == "publish" else (0, 0, "")
    pivot = moment(value) if key in ("before", "since") and value else (0, "")
    tests: dict[str, Callable[[Record], bool]] = {
        "ancestor": lambda record: _is_of(record, value),
        "before": lambda record: (record.created_ns, record.id) < pivot,
        "exited": lambda record: record.status == "exited" and str(record.exit_status) == value,
        "health": lambda record: _health(state, record) == value,
        "id": lambda record: record.id.startswith(value),
        "label": lambda record: has_label(record, value),
        "name": lambda record: re.search(pattern, record.name) is not None,
        "publish": lambda record: _publishes(record, ports),
        "since": lambda record: (record.created_ns, record.id) > pivot,
        "status": lambda record: record.status == value,
        "volume": lambda record: any(value in (p.name, p.target) for p in Settings.decode(record.settings).mounts),
    }
    if not equals or key not in tests:
        raise FirekilnError(f"--filter {text}: invalid filter '{key}'", hint=f"KEY=VALUE, by {', '.join(tests)}")
    try:
        pattern = re.compile(value.removeprefix("/") if key == "name" else "")
    except re.error as error:
        raise UsageError(f"--filter {text}: {error}") from error
    return key, tests[key]


def _health(state: State, record: Record) -> str:
    live = read_live(state.folder_of(record.id))
    return (live.health if live is not None else "") or "none"


def _port_range(value: str) -> tuple[int, int, str]:
    """`PORT`, `PORT-PORT`, with `/udp` perhaps. UsageError."""
    ports, _, protocol = value.partition("/")
    first, _, last = ports.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise UsageError(f"--filter publish={value}: no port", hint="such as publish=8080, publish=8000-8100/udp")
    return int(first), int(last or first), protocol or "tcp"


def _publishes(record: Record, wanted: tuple[int, int, str]) -> bool:
    """Whether one of the ports is published, on the host's side."""
    first, last, protocol = wanted
    return any(
        first <= port.host_port <= last and port.protocol == protocol
        for port in Settings.decode(record.settings).spec.ports
    )


def _size(state: State, record: Record) -> str:
    writable, everything = sizes(state, record)
    return f"{human_size(writable)} (virtual {human_size(everything)})"


def _passes(record: Record, filters: Sequence[Filter]) -> bool:
    keys = {key for key, _ in filters}
    return all(any(test(record) for other, test in filters if other == key) for key in keys)


def _is_of(record: Record, image: str) -> bool:
    if record.image_digest.removeprefix("sha256:").startswith(image.removeprefix("sha256:")):
        return True
    return Reference.parse(image).tagged().familiar in (record.image, f"{record.image}:latest")


def has_label(record: Record, wanted: str) -> bool:
    """Whether a machine has the label `KEY`, or `KEY=VALUE`."""
    labels = json.loads(record.config).get("Labels") or {}
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def describe(record: Record, live: Live | None, *, no_trunc: bool = False) -> dict[str, str]:
    """A machine in the words of `docker ps`, by the names of its Go templates."""
    now = time.time()
    config = json.loads(record.config)
    settings = Settings.decode(record.settings)
    width = None if no_trunc else _COMMAND_WIDTH
    mounts = [_cut(point.name or point.source, None if no_trunc else _MOUNT_WIDTH) for point in settings.mounts]
    created = datetime.fromtimestamp(record.created_ns / 1e9).astimezone()
    return {
        "Command": _quoted(_cut(_command([*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]), width)),
        "CreatedAt": f"{created:%Y-%m-%d %H:%M:%S %z %Z}",
        "ID": record.id if no_trunc else record.id[:_SHORT_ID],
        "Image": record.image,
        "Labels": ",".join(f"{key}={value}" for key, value in (config.get("Labels") or {}).items()),
        "LocalVolumes": str(sum(bool(point.name) for point in settings.mounts)),
        "Mounts": ",".join(mounts),
        "Names": record.name,
        "Networks": ",".join(nic.network for nic in settings.spec.nics) or "none",
        "Ports": _ports(record, config),
        "RunningFor": f"{human_duration(now - record.created_ns / 1e9)} ago",
        "Size": "0B",
        "State": record.status,
        "Status": _status(record, live, now),
    }


def _command(argv: Sequence[str]) -> str:
    """As dockerd shows it (`container.transform`): words with a blank in them stand in single quotes."""
    return " ".join([*argv[:1], *(f"'{word}'" if " " in word else word for word in argv[1:])])


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"


def _quoted(text: str) -> str:
    """Go's strconv.Quote, near enough: what would command the terminal is written as an escape."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    return f"\\x{ord(char):02x}" if ord(char) < 0x80 else f"\\u{ord(char):04x}"


def _status(record: Record, live: Live | None, now: float) -> str:
    match record.status:
        case "running":
            health = f" ({_HEALTH.get(live.health, live.health)})" if live and live.health else ""
            return f"Up {human_duration(now - record.started_ns / 1e9)}{health}"
        case "paused":
            return f"Up {human_duration(now - record.started_ns / 1e9)} (Paused)"
        case "restarting":
            return "Restarting"
        case "exited":
            return f"Exited ({record.exit_status}) {human_duration(now - record.finished_ns / 1e9)} ago"
        case "created":
            return "Created"


def _ports(record: Record, config: dict[str, Any]) -> str:
    """Published ports, then those that the image exposes only; of a machine that does not run, none."""
    if record.status not in RUNS:
        return ""
    published = Settings.decode(record.settings).spec.ports
    bound = {f"{port.guest_port}/{port.protocol}" for port in published}
    exposed = [port for port in config.get("ExposedPorts") or {} if port not in bound]
    return ", ".join([*map(str, published), *exposed])
