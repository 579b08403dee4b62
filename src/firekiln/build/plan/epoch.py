"""The build argument SOURCE_DATE_EPOCH: a number of seconds, or the name of a source whose time is meant."""

from __future__ import annotations

import re
from collections.abc import Mapping

from firekiln.build.graph import ContextSource, GitSource, HttpSource
from firekiln.build.plan import remotes
from firekiln.build.plan.state import SCRATCH, Planning
from firekiln.dockerfile.instructions import Add, Arg, Stage
from firekiln.errors import Location

NAME = "SOURCE_DATE_EPOCH"


def resolve_epoch(planning: Planning) -> int | None:
    """The epoch of the build, None where there is none or its source does not tell a time.

    `context`, a named context, or a stage that only ADDs one remote source may stand for the number. The arguments
    hold the number itself afterwards, or the name is gone from them. DockerfileError: the value is none of these.
    """
    value = planning.build_args.get(NAME, planning.args.get(NAME)) or ""
    if not value:
        return None
    if re.fullmatch(r"[+-]?\d{1,18}", value, re.ASCII):
        epoch: int | None = int(value)
    else:
        source = _source(planning, value)
        lookup = planning.options.source_epoch
        epoch = None if lookup is None else lookup(source)
        if epoch is None:
            planning.notices.append(f"{NAME}={value} tells no time: times are left alone")
    for scope in (planning.build_args, planning.args):
        if NAME in scope and epoch is None:
            del scope[NAME]
        elif NAME in scope:
            scope[NAME] = str(epoch)
    return epoch


def _source(planning: Planning, value: str) -> ContextSource | HttpSource | GitSource:
    if value == "context":
        return ContextSource()
    if value in planning.options.contexts:
        return ContextSource(name=value)
    for stage in planning.dockerfile.stages:
        if stage.name == value.lower():
            return _stage_source(planning, stage)
    raise planning.error(
        f"invalid {NAME}: {value}", _where(planning), hint="give seconds since 1970, `context`, or a stage's name"
    )


def _stage_source(planning: Planning, stage: Stage) -> HttpSource | GitSource:
    args = {name: value for name, value in planning.args.items() if name != NAME}
    if planning.expansion(stage.base.image, args, stage.location).text != SCRATCH:
        raise planning.error(f"{NAME} stage must use FROM scratch", stage.location)
    source: HttpSource | GitSource | None = None
    for instruction in stage.instructions:
        match instruction:
            case Arg():
                _declare(planning, instruction, args)
            case Add() if source is None:
                source = _remote(planning, instruction, args)
            case Add():
                raise planning.error(f"{NAME} stage must contain exactly one remote ADD", instruction.location)
            case _:
                raise planning.error(
                    f"{NAME} stage does not meet source-only requirements: unsupported {instruction.name} instruction",
                    instruction.location,
                )
    if source is None:
        raise planning.error(f"{NAME} stage must contain exactly one remote ADD", stage.location)
    return source


def _declare(planning: Planning, instruction: Arg, args: dict[str, str]) -> None:
    for item in instruction.args:
        if item.key in planning.build_args:
            args[item.key] = planning.build_args[item.key]
        elif item.value is not None:
            args[item.key] = planning.expansion(item.value, args, instruction.location).text


def _remote(planning: Planning, instruction: Add, args: Mapping[str, str]) -> HttpSource | GitSource:
    where = instruction.location
    if len(instruction.sources.paths) != 1 or instruction.sources.contents:
        raise planning.error(f"{NAME} stage must contain exactly one remote ADD source", where)
    source = planning.expansion(instruction.sources.paths[0], args, where).text
    checksum = planning.expansion(instruction.checksum, args, where).text or None
    if remotes.is_http(source):
        return HttpSource(url=source, checksum=checksum, filename=remotes.http_filename(source))
    git = _git(planning, source, where)
    if git is None:
        raise planning.error(f"{NAME} stage source must be a single HTTP(S) or Git ADD", where)
    return GitSource(
        remote=git.remote,
        ref=git.ref,
        subdir=git.subdir,
        checksum=checksum or git.checksum or None,
        keep_git_dir=bool(instruction.keep_git_dir or git.keep_git_dir),
        submodules=git.submodules is not False,
    )


def _git(planning: Planning, source: str, where: Location) -> remotes.GitReference | None:
    try:
        return remotes.parse_git(source)
    except ValueError as error:
        raise planning.error(str(error), where) from None


def _where(planning: Planning) -> Location | None:
    """The ARG that gives the value, if it is not the command line that does."""
    if NAME in planning.build_args:
        return None
    for arg in planning.dockerfile.global_args:
        if any(item.key == NAME for item in arg.args):
            return arg.location
    return None
