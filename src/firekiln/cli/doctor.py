"""`firekiln doctor`: what this host has, what is missing, and how to get it."""

from __future__ import annotations

import json

import click

from firekiln import api
from firekiln.api import HostReport
from firekiln.store import store_root

_SIGNS = {"ok": "ok", "missing": "--", "unusable": "!!"}


@click.command
@click.option("--format", "style", type=click.Choice(["plain", "json"]), default="plain", help="How to print it.")
@click.pass_context
def doctor(ctx: click.Context, style: str) -> None:
    """Look at what this host has for building and running images.

    What is tried is tried for real: layers and overlays are mounted, KVM runs a guest (at most a second; remembered).
    Exit status 0: both work here, whatever else is missing.
    """
    report = api.examine_host(store_root(ctx.obj["root"]))
    if style == "json":
        click.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        _print(report)
    ctx.exit(0 if report.can_build and report.can_run else 1)


def _print(report: HostReport) -> None:
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        click.echo(f" {_SIGNS[finding.status]}  {finding.name:<{width}}  {finding.detail}")
        if not finding.is_ok:
            click.echo(f"     {'':<{width}}  for {finding.use}")
            for command in finding.commands:
                click.echo(f"     {'':<{width}}    {command}")
    click.echo()
    click.echo(f"build: {'yes' if report.can_build else 'no'}")
    click.echo(f"run:   {'yes' if report.can_run else 'no'}")
