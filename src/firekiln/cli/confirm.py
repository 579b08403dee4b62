"""Asking before something is removed."""

from __future__ import annotations

import sys

import click

from firekiln.errors import FirekilnError


def confirm(force: bool, what: str) -> None:
    """Ask as Docker does; FirekilnError where the answer is not yes."""
    if force:
        return
    click.echo(f"WARNING! {what}\nAre you sure you want to continue? [y/N] ", nl=False)
    answer = sys.stdin.readline().strip().lower()
    if answer not in ("y", "yes"):
        raise FirekilnError("nothing was removed", hint="answer y, or use -f")
