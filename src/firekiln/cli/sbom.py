"""`firekiln sbom`: the packages in an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from firekiln import api
from firekiln.cli.table import print_table
from firekiln.errors import UsageError

if TYPE_CHECKING:
    from firekiln.build.sbom.document import Subject


@click.command
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "spdx-json", "cyclonedx-json"]),
    default="table",
    help="For people, SPDX 2.3 or CycloneDX 1.6.",
    show_default=True,
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write a document to this file.")
@click.option("--platform", metavar="OS/ARCH", help="The image for this platform.")
@click.argument("image")
@click.pass_obj
def sbom(
    obj: dict[str, Any],
    form: Literal["table", "spdx-json", "cyclonedx-json"],
    output: Path | None,
    platform: str | None,
    image: str,
) -> None:
    """List the packages in IMAGE: of dpkg, apk, rpm and Python.

    They are read from the packages' own databases. What is there without any, such as a compiled program, is not seen.
    """
    if form == "table" and output is not None:
        raise UsageError("--output: a table is for people", hint="--format spdx-json or cyclonedx-json")
    found = api.installed_packages(image, platform=platform, store=obj["root"])
    for line in found.inventory.unread:
        click.echo(f"firekiln: warning: {line}", err=True)
    if form == "table":
        _print(found)
        return
    from firekiln.build.sbom.document import encoded  # noqa: PLC0415 - a table is none

    text = encoded(found, form) + b"\n"
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_bytes(text)
    except OSError as error:
        raise UsageError(f"--output {output}: {(error.strerror or str(error)).lower()}") from error


def _print(found: Subject) -> None:
    rows = [(package.name, package.version, package.kind) for package in found.inventory.packages]
    print_table(("NAME", "VERSION", "TYPE"), list(dict.fromkeys(rows)))
