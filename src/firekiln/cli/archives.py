"""`save`, `load`, `import`: images in files, in Docker's words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from firekiln import api
from firekiln.errors import UsageError
from firekiln.oci.reference import Reference


@click.command
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write there, not to stdout.")
@click.option(
    "--format", "style",
    type=click.Choice(["docker-archive", "oci-archive"]),
    default="docker-archive",
    help="With docker's manifest.json, or as OCI says alone.",
    show_default=True,
)  # fmt: skip
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip", "zstd"]),
    default="none",
    help="How layers lie in it.",
    show_default=True,
)
@click.option("--platform", metavar="OS/ARCH", help="Of several images under one name, this platform's.")
@click.argument("images", metavar="IMAGE…", nargs=-1, required=True)
@click.pass_obj
def save(  # noqa: PLR0917 - click passes them by keyword
    obj: dict[str, Any],
    output: Path | None,
    style: api.ArchiveFormat,
    compression: str,
    platform: str | None,
    images: Sequence[str],
) -> None:
    """Write images into an archive, which `docker load` reads."""
    if output is None and sys.stdout.isatty():
        raise UsageError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    sys.stdout.flush()
    into = output or sys.stdout.buffer.write
    api.save(images, into, format=style, compression=compression, platform=platform, store=obj["root"])


@click.command
@click.option(
    "-i", "--input", "archive", type=click.Path(path_type=Path), metavar="FILE|DIR", help="Read it, not stdin."
)
@click.option("-q", "--quiet", is_flag=True, help="For Docker's sake: no progress is shown anyway.")
@click.option("--platform", metavar="OS/ARCH", help="Of an image for several platforms, this one.")
@click.pass_obj
def load(obj: dict[str, Any], archive: Path | None, quiet: bool, platform: str | None) -> None:  # noqa: ARG001 - quiet
    """Bring in the images of an archive.

    It is what `docker save` wrote, or an OCI image layout: a tar, perhaps compressed, or a folder.
    """
    if archive is None and sys.stdin.isatty():
        raise UsageError("requested load from stdin, but stdin is empty", hint="firekiln load -i FILE")
    for loaded in api.load(archive or sys.stdin.buffer, platform=platform, store=obj["root"]):
        for reference in loaded.references:
            click.echo(f"Loaded image: {Reference.parse(reference).familiar}")
        if not loaded.references:
            click.echo(f"Loaded image ID: {loaded.image.digest}")


@click.command("import")
@click.option(
    "-c", "--change", "changes", multiple=True, metavar="INSTRUCTION", help='As in a Dockerfile: "CMD nginx".'
)
@click.option("-m", "--message", default="", help="The image's comment.")
@click.option("--platform", metavar="OS/ARCH", help="What the files are for (default: this machine).")
@click.argument("archive", metavar="FILE|URL|-")
@click.argument("reference", metavar="[NAME[:TAG]]", required=False)
@click.pass_obj
def import_(  # noqa: PLR0917 - click passes them by keyword
    obj: dict[str, Any],
    changes: Sequence[str],
    message: str,
    platform: str | None,
    archive: str,
    reference: str | None,
) -> None:
    """Make an image of a file system's tar.

    `docker export` writes such a tar.
    """
    if archive == "-" and sys.stdin.isatty():
        raise UsageError("the archive is to come from standard input, which is a terminal")
    made = api.import_image(
        sys.stdin.buffer if archive == "-" else archive,
        reference,
        changes=changes,
        message=message,
        platform=platform,
        store=obj["root"],
    )
    click.echo(made.digest)
