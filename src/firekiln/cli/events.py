"""`firekiln events`: what happens to machines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from firekiln.cli.machines import machine_state
from firekiln.cli.moments import parse_moment
from firekiln.cli.template import render
from firekiln.errors import UsageError
from firekiln.machine.supervision.journal import read_events

_KEYS = ("container", "event", "image", "label", "type")


@click.command
@click.option("--since", metavar="WHEN", help="Also what has happened since then.")
@click.option("--until", metavar="WHEN", help="Nothing after that.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help=f"By {', '.join(_KEYS)}.")
@click.option("--format", "style", metavar="FORMAT", default="", help="json, or a template.")
@click.pass_context
def events(ctx: click.Context, since: str | None, until: str | None, filters: Sequence[str], style: str) -> None:
    """Show what happens to machines, as it happens."""
    wanted = [_parse(text) for text in filters]
    begin = parse_moment(since, "--since") if since else time.time_ns()
    end = parse_moment(until, "--until") if until else None
    for event in read_events(machine_state(ctx).folder, since_ns=begin, until_ns=end, follow=lambda: True):
        if _passes(event, wanted):
            click.echo(_shown(event, style))


def _parse(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or key not in _KEYS:
        raise UsageError(f"--filter {text}: invalid filter", hint=f"KEY=VALUE, with one of {', '.join(_KEYS)}")
    return key, value


def _passes(event: Mapping[str, Any], filters: Sequence[tuple[str, str]]) -> bool:
    """Filters of one key are alternatives, as with Docker."""
    keys = {key for key, _ in filters}
    return all(any(_is(event, key, value) for other, value in filters if other == key) for key in keys)


def _is(event: Mapping[str, Any], key: str, value: str) -> bool:
    attributes: Mapping[str, str] = event["Actor"]["Attributes"]
    action, identity = str(event["Action"]), str(event["id"])
    match key:
        case "container":
            return bool(value) and (attributes["name"] == value or identity.startswith(value))
        case "event":
            return value in (action, action.partition(":")[0])
        case "image":
            return attributes["image"] == value
        case "type":
            return value == "container"
        case _:
            name, equals, wanted = value.partition("=")
            return name in attributes and (not equals or attributes[name] == wanted)


def _shown(event: Mapping[str, Any], style: str) -> str:
    if style == "json":
        return json.dumps(event, ensure_ascii=False)
    if style:
        return render(style, dict(event))
    seconds, rest = divmod(event["timeNano"], 1_000_000_000)
    moment = datetime.fromtimestamp(seconds).astimezone()
    zone = f"{moment:%z}"
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event["Actor"]["Attributes"].items()))
    when = f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09}{zone[:3]}:{zone[3:]}"
    return f"{when} {event['Type']} {event['Action']} {event['id']} ({attributes})"
