"""`firekiln dockerfile parse|plan`: what a Dockerfile means, without building it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from firekiln import api
from firekiln.build.check import any_image
from firekiln.build.plan import PlanOptions, plan, plan_to_json
from firekiln.cli.options import build_arguments
from firekiln.dockerfile import parse_dockerfile, parse_syntax, view_syntax
from firekiln.errors import UsageError

_FORMAT = click.option("--format", "_style", type=click.Choice(["json"]), default="json", help="json.")


@click.group
def dockerfile() -> None:
    """Show what a Dockerfile means, and build nothing."""


@dockerfile.command("parse")
@_FORMAT
@click.argument("file", metavar="FILE|-", default="Dockerfile")
def parse(_style: str, file: str) -> None:
    """The instructions as the parser reads them."""
    text, name = _read(file)
    _print(view_syntax(parse_syntax(text, file=name)))


@dockerfile.command("plan")
@_FORMAT
@click.option("--target", default="", metavar="STAGE", help="The stage to plan.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME[=VALUE]", help="Set an ARG.")
@click.option("--platform", metavar="OS/ARCH", help="Plan for this platform.")
@click.option("--resolve", is_flag=True, help="Read base images' configs; they are taken to be empty otherwise.")
@click.argument("file", metavar="FILE|-", default="Dockerfile")
@click.pass_obj
def plan_(  # noqa: PLR0917 - click passes them by keyword
    obj: dict[str, Any],
    _style: str,
    target: str,
    build_args: tuple[str, ...],
    platform: str | None,
    resolve: bool,
    file: str,
) -> None:
    """The processes, file operations, sources and the image config that a build would come to."""
    text, name = _read(file)
    options = PlanOptions(target=target, build_args=build_arguments(build_args), platform=api.parse_platform(platform))
    parsed = parse_dockerfile(text, file=name)
    if not resolve:
        _print(plan_to_json(plan(parsed, options, any_image)))
        return
    with api.base_configs(obj["root"]) as configs:
        _print(plan_to_json(plan(parsed, options, configs)))


def _read(file: str) -> tuple[bytes, str]:
    if file == "-":
        return sys.stdin.buffer.read(), "Dockerfile"
    try:
        return Path(file).read_bytes(), Path(file).name
    except OSError as error:
        raise UsageError(f"failed to read dockerfile: open {file}: {(error.strerror or str(error)).lower()}") from error


def _print(document: object) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
