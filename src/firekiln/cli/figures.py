"""`stats`: what machines use, in Docker's columns."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from firekiln.cli.machines import machine_state
from firekiln.cli.table import human_size, print_table
from firekiln.cli.template import render
from firekiln.errors import FirekilnError
from firekiln.machine.machine import Machine
from firekiln.machine.supervision.state import Record, State

_PERIOD = 1.0
_SHORT_ID = 12
_CLEAR = "\x1b[2J\x1b[H"
_HEADING = ("CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS")
_COLUMNS = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

Sample = tuple[float, Mapping[str, Any]]


@click.command
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that do not run.")
@click.option("--no-stream", is_flag=True, help="Show one sample, and end.")
@click.option("--no-trunc", is_flag=True, help="Ids in full.")
@click.option("--format", "style", metavar="FORMAT", default="table", help="table, json, or a template.")
@click.argument("machines", nargs=-1)
@click.pass_context
def stats(  # noqa: PLR0917 - click passes them by keyword
    ctx: click.Context, everything: bool, no_stream: bool, no_trunc: bool, style: str, machines: Sequence[str]
) -> None:
    """Show what machines use, as their kernels count it."""
    state = machine_state(ctx)
    before: dict[str, Sample] = {}
    while True:
        records = _wanted(state, machines, everything=everything)
        if not before:
            before = _samples(state, records)
            time.sleep(_PERIOD)
        now = _samples(state, records)
        rows = [_row(record, before.get(record.id), now.get(record.id), no_trunc=no_trunc) for record in records]
        _show(rows, style, clear=not no_stream and style == "table")
        if no_stream:
            return
        before = now
        time.sleep(_PERIOD)


def _wanted(state: State, words: Sequence[str], *, everything: bool) -> list[Record]:
    if words:
        return [state.get(word) for word in words]
    return [record for record in state.list() if everything or record.status == "running"]


def _samples(state: State, records: Sequence[Record]) -> dict[str, Sample]:
    made: dict[str, Sample] = {}
    for record in records:
        if record.status == "running":
            try:
                made[record.id] = (time.monotonic(), Machine(state, record.id).figures("stats"))
            except FirekilnError:
                continue  # it has ended meanwhile, or still boots
    return made


def _row(record: Record, before: Sample | None, now: Sample | None, *, no_trunc: bool) -> dict[str, str]:
    identity = record.id if no_trunc else record.id[:_SHORT_ID]
    made = dict.fromkeys(_COLUMNS, "--") | {"ID": identity, "Container": identity, "Name": record.name}
    if now is None:
        return made
    figures = now[1]
    memory = figures["memory"]
    used = max(0, memory["total"] - memory["available"])
    made["MemUsage"] = f"{binary_size(used)} / {binary_size(memory['total'])}"
    made["MemPerc"] = f"{100 * used / max(1, memory['total']):.2f}%"
    made["CPUPerc"] = f"{_cpu(before, now):.2f}%"
    for column, name in (("NetIO", "network"), ("BlockIO", "block")):
        sums = [sum(device[way] for device in figures[name] if device["name"] != "lo") for way in ("into", "out")]
        made[column] = " / ".join(map(human_size, sums))
    made["PIDs"] = str(figures["pids"])
    return made


def _cpu(before: Sample | None, now: Sample) -> float:
    """Percent of one processor, in the time between two samples; several together may use more than 100."""
    if before is None or now[0] <= before[0]:
        return 0.0
    busy = [sample[1]["cpu"]["user"] + sample[1]["cpu"]["system"] for sample in (before, now)]
    return max(0.0, float(busy[1] - busy[0]) / 10 / (now[0] - before[0]))


def _show(rows: Sequence[dict[str, str]], style: str, *, clear: bool) -> None:
    if clear:
        click.echo(_CLEAR, nl=False)
    if style == "table":
        print_table(_HEADING, [[row[column] for column in _COLUMNS] for row in rows])
    for row in rows if style != "table" else ():
        click.echo(json.dumps(row) if style == "json" else render(style, row))


def binary_size(size: float) -> str:
    """`1.5MiB`: go-units' BytesSize, four significant digits."""
    units = list(_UNITS)
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.4g}{units[0]}"
