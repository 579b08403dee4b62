"""What build checks found, as `docker build --check` shows it, and as a build does when it is done."""

from __future__ import annotations

import json
from typing import TextIO

import click

from firekiln.build.check import CheckResult
from firekiln.build.events import Event, Warned
from firekiln.cli.progress import Display, Quiet, RawJson
from firekiln.dockerfile.excerpt import excerpt
from firekiln.dockerfile.rules import RULES, CheckWarning
from firekiln.dockerfile.text import printable, visible


def report_checks(result: CheckResult, *, style: str = "table") -> int:
    """Print the warnings, for people or as JSON, and give the exit status: 1 if there are any.

    An error that keeps the file from being planned is raised after them.
    """
    if style == "json":
        document = {"warnings": [_view(warning) for warning in result.warnings]}
        click.echo(printable(json.dumps(document, indent=2, ensure_ascii=False)))
    else:
        if result.warnings or result.error is None:
            click.echo(_summary(len(result.warnings)))
        for warning in result.warnings:
            click.echo(f"\nWARNING: {warning.rule.name} - {warning.rule.url}\n{visible(warning.message)}")
            click.echo(excerpt(result.source, warning.location, span=warning.span), nl=False)
    if result.error is not None:
        raise result.error
    return 1 if result.warnings else 0


def _summary(count: int) -> str:
    if not count:
        return "Check complete, no warnings found."
    return f"Check complete, {count} warning{'s have' if count > 1 else ' has'} been found!"


def _view(warning: CheckWarning) -> dict[str, object]:
    """In the words of BuildKit's lint results."""
    where = warning.location
    return {
        "ruleName": warning.rule.name,
        "description": warning.rule.description,
        "url": warning.rule.url,
        "detail": warning.message,
        "location": {"file": where.file, "start": where.start, "end": where.end},
    }


class LateWarnings:
    """A view of a build that keeps warnings for the end, as BuildKit does; `rawjson` has them at once, `quiet` none."""

    def __init__(self, view: Display, stream: TextIO, *, expand: bool) -> None:
        self._view, self._stream, self._expand = view, stream, expand
        self._warnings: list[Warned] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned) and not isinstance(self._view, RawJson):
            self._warnings.append(event)
        else:
            self._view(event)

    def close(self) -> None:
        self._view.close()

    def report(self) -> None:
        """Say what was kept: a line for each warning, and its place in the Dockerfile if `expand`."""
        count = len(self._warnings)
        if not count or isinstance(self._view, Quiet):
            return
        how = "" if self._expand else " (use firekiln --debug build to expand)"
        click.echo(f"\n {count} warning{'s' if count > 1 else ''} found{how}:", file=self._stream)
        for warning in self._warnings:
            rule = f"{warning.rule}: " if warning.rule else ""
            line = f" (line {warning.location.start})" if warning.location else ""
            click.echo(f" - {rule}{visible(warning.message)}{line}", file=self._stream)
            if self._expand and warning.rule:
                click.echo(f"More info: {RULES[warning.rule].url}", file=self._stream)
            if self._expand and warning.location and warning.source is not None:
                shown = excerpt(warning.source, warning.location, span=warning.span)
                click.echo(shown, file=self._stream)
