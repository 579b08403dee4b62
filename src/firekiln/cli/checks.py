"""What build checks found, as `docker build --check` shows it."""

from __future__ import annotations

import json

import click

from firekiln.build.check import CheckResult
from firekiln.dockerfile.excerpt import excerpt
from firekiln.dockerfile.rules import CheckWarning
from firekiln.dockerfile.text import printable, visible


def report_checks(result: CheckResult, *, style: str = "table") -> int:
    """Print the warnings, for people or as JSON, and give the exit status: 1 if there are any.

    An error that keeps the file from being planned is raised after them.
    """
    if style == "json":
        document = {"warnings": [_view(warning) for warning in result.warnings]}
        click.echo(printable(json.dumps(document, indent=2, ensure_ascii=False)))
    else:
        click.echo(_summary(result))
        for warning in result.warnings:
            click.echo(f"\nWARNING: {warning.rule.name} - {warning.rule.url}\n{visible(warning.message)}")
            click.echo(excerpt(result.source, warning.location, span=warning.span), nl=False)
    if result.error is not None:
        raise result.error
    return 1 if result.warnings else 0


def _summary(result: CheckResult) -> str:
    count = len(result.warnings)
    if not count:
        return "Check complete, no warnings found." if result.error is None else "Check not complete."
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
