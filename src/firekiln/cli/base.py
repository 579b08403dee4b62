"""`firekiln base create|ls`: base images made of a distribution's packages."""

from __future__ import annotations

import sys
from typing import Any

import click

from firekiln import api
from firekiln.cli.progress import MODES, display
from firekiln.cli.table import print_table
from firekiln.oci.reference import DEFAULT_TAG


@click.group
def base() -> None:
    """Base images, made of a distribution's own packages."""


@base.command("create")
@click.option("--platform", metavar="OS/ARCH", help="Make it for this platform.")
@click.option("--progress", type=click.Choice(MODES), default="auto", help="How to show what happens.")
@click.option("--with-init", metavar="INIT", help="With systemd, openrc, …, as a full system: REFERENCE-INIT.")
@click.option("-q", "--quiet", is_flag=True, help="Print the image's digest only.")
@click.argument("reference")
@click.pass_obj
def create(  # noqa: PLR0917 - click passes them by keyword
    obj: dict[str, Any], platform: str | None, progress: str, with_init: str | None, quiet: bool, reference: str
) -> None:
    """Make a base image anew, such as debian:bookworm-slim.

    `FROM REFERENCE` finds it from then on; `FROM debian:bookworm-systemd` what --with-init systemd makes.
    """
    if with_init is not None:
        reference = f"{reference if ':' in reference else f'{reference}:{DEFAULT_TAG}'}-{with_init}"
    view = display("quiet" if quiet else progress, sys.stderr)
    try:
        image = api.create_base(reference, platform=platform, on_event=view, store=obj["root"])
    finally:
        view.close()
    if quiet:
        click.echo(image.digest)


@base.command("ls")
def ls() -> None:
    """List what can be made.

    `*` in a tag stands for a number. Recipes in the folder `recipes` beside config.toml are among them.
    """
    from firekiln.build.recipes import distributions, listed  # noqa: PLC0415 - `create` needs none here

    rows = [
        (f"{item.familiar}:{tag}", release, " ".join(item.inits) or "-", item.file)
        for item in distributions()
        for tag, release in listed(item)
    ]
    print_table(("REFERENCE", "RELEASE", "INITS", "RECIPE"), rows)
