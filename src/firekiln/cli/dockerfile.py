"""`firekiln dockerfile parse|plan|outline|check`: what a Dockerfile means, without building it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from firekiln.errors import UsageError

if TYPE_CHECKING:  # the parser alone must not wait for the planner, nor the planner for the store
    from firekiln.build.plan import BaseConfigs, PlanOptions
    from firekiln.build.plan.outline import Outline

_MAX_READ = 16 * 2**20 + 1
"""Bytes: one more than the parser takes, so that it can say so; endless files end here."""

_JSON = click.option("--format", "_style", type=click.Choice(["json"]), default="json", help="json.")
_FORMAT = click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", help="table or json."
)
_FILE = click.argument("file", metavar="FILE|-", default="Dockerfile")
_TARGET = click.option("--target", default="", metavar="STAGE", help="The stage that is meant.")
_BUILD_ARG = click.option("--build-arg", "build_args", multiple=True, metavar="NAME[=VALUE]", help="Set an ARG.")
_PLATFORM = click.option("--platform", metavar="OS/ARCH", help="The platform to build for.")
_RESOLVE = click.option(
    "--resolve", is_flag=True, help="Read base images' configs; they are taken to be empty otherwise."
)


@click.group
def dockerfile() -> None:
    """Show what a Dockerfile means, and build nothing."""


@dockerfile.command
@_JSON
@_FILE
def parse(_style: str, file: str) -> None:
    """The instructions as the parser reads them, as JSON."""
    from firekiln.dockerfile.parser import parse_syntax  # noqa: PLC0415 - each verb imports what it needs
    from firekiln.dockerfile.view import view_syntax  # noqa: PLC0415 - ditto

    text, name = _read(file)
    _print(view_syntax(parse_syntax(text, file=name)))


@dockerfile.command
@_JSON
@_TARGET
@_BUILD_ARG
@_PLATFORM
@_RESOLVE
@_FILE
@click.pass_obj
def plan(obj: dict[str, Any], /, _style: str, resolve: bool, file: str, **options: Any) -> None:
    """The processes, file operations, sources and the image config that a build would come to, as JSON."""
    from firekiln.build.plan import plan, plan_to_json  # noqa: PLC0415 - each verb imports what it needs
    from firekiln.dockerfile.convert import parse_dockerfile  # noqa: PLC0415 - ditto

    text, name = _read(file)
    parsed = parse_dockerfile(text, file=name)
    with _bases(obj, resolve=resolve) as bases:
        _print(plan_to_json(plan(parsed, _options(**options), bases)))


@dockerfile.command
@_FORMAT
@_TARGET
@_BUILD_ARG
@_PLATFORM
@_RESOLVE
@_FILE
@click.pass_obj
def outline(obj: dict[str, Any], /, style: str, resolve: bool, file: str, **options: Any) -> None:
    """Targets, and the arguments, secrets and caches that one of them uses."""
    from firekiln.build.plan.outline import outline  # noqa: PLC0415 - each verb imports what it needs
    from firekiln.dockerfile.convert import parse_dockerfile  # noqa: PLC0415 - ditto

    text, name = _read(file)
    parsed = parse_dockerfile(text, file=name)
    with _bases(obj, resolve=resolve) as bases:
        found = outline(parsed, _options(**options), bases)
    if style == "json":
        _print(asdict(found))
    else:
        _print_outline(found)


@dockerfile.command
@_FORMAT
@_TARGET
@_BUILD_ARG
@_PLATFORM
@_RESOLVE
@_FILE
@click.pass_obj
def check(obj: dict[str, Any], /, style: str, resolve: bool, file: str, **options: Any) -> int:
    """Build checks, of all stages unless a target is named. The exit status is 1 if one finds something."""
    from firekiln.build.check import check  # noqa: PLC0415 - each verb imports what it needs
    from firekiln.cli.checks import report_checks  # noqa: PLC0415 - ditto

    text, name = _read(file)
    with _bases(obj, resolve=resolve) as bases:
        return report_checks(check(text, _options(**options), bases, file=name), style=style)


def _options(*, target: str, build_args: tuple[str, ...], platform: str | None) -> PlanOptions:
    from firekiln.build.plan import PlanOptions  # noqa: PLC0415 - each verb imports what it needs
    from firekiln.cli.options import build_arguments  # noqa: PLC0415 - ditto
    from firekiln.oci.platform import Platform  # noqa: PLC0415 - ditto

    try:
        wanted = Platform.parse(platform) if platform else None
    except ValueError as error:
        raise UsageError(f"--platform: {error}") from error
    return PlanOptions(target=target, build_args=build_arguments(build_args), platform=wanted)


@contextmanager
def _bases(obj: dict[str, Any], *, resolve: bool) -> Iterator[BaseConfigs]:
    """Base images' configs: those of the store and whatever makes bases, or empty ones."""
    if resolve:
        from firekiln import api  # noqa: PLC0415 - the store is opened for --resolve alone

        with api.base_configs(obj["root"]) as configs:
            yield configs
    else:
        from firekiln.build.check import any_image  # noqa: PLC0415 - each verb imports what it needs

        yield any_image


def _read(file: str) -> tuple[bytes, str]:
    """The text, and the Dockerfile's name for messages."""
    if file == "-":
        return sys.stdin.buffer.read(_MAX_READ), "Dockerfile"
    try:
        with Path(file).open("rb") as opened:
            return opened.read(_MAX_READ), Path(file).name
    except OSError as error:
        raise UsageError(f"failed to read dockerfile: open {file}: {(error.strerror or str(error)).lower()}") from error


def _print_outline(found: Outline) -> None:
    from firekiln.cli.table import print_table  # noqa: PLC0415 - each verb imports what it needs

    tables: list[tuple[list[str], list[list[str]]]] = [
        (
            ["TARGET", "BASE", "DESCRIPTION"],
            [
                [(t.name or str(t.index)) + (" (default)" if t.default else ""), t.base, t.description]
                for t in found.targets
            ],
        ),
        (["BUILD ARG", "VALUE", "DESCRIPTION"], [[a.name, a.value or "", a.description] for a in found.args]),
        (["SECRET", "REQUIRED"], [[s.id, _yes(s.required)] for s in found.secrets]),
        (["SSH", "REQUIRED"], [[s.id, _yes(s.required)] for s in found.ssh]),
        (["CACHE", "TARGET", "SHARING"], [[c.id, c.target, c.sharing] for c in found.caches]),
    ]
    click.echo(f"OUTLINE OF {found.target.name or found.target.index}\n")
    shown = [(heading, rows) for heading, rows in tables if rows]
    for number, (heading, rows) in enumerate(shown):
        if number:
            click.echo()
        print_table(heading, [[_shown(cell) for cell in row] for row in rows], least=0)  # as BuildKit's are


def _yes(flag: bool) -> str:
    return "true" if flag else ""


def _shown(text: str) -> str:
    """A cell: one line, nothing that commands the terminal."""
    from firekiln.dockerfile.text import visible  # noqa: PLC0415 - each verb imports what it needs

    return visible(text)


def _print(document: object) -> None:
    from firekiln.dockerfile.text import printable  # noqa: PLC0415 - each verb imports what it needs

    click.echo(printable(json.dumps(document, indent=2, ensure_ascii=False)))
