"""Build checks that need the text alone. Those that need values (UndefinedVar and the like) are the plan's.

All stages are looked at, needed or not. Where a word has variables, a check whose answer hangs on them is silent:
the plan, which knows them, can ask `check_port` and `check_workdir` again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from firekiln.dockerfile import rules
from firekiln.dockerfile.expand import expand
from firekiln.dockerfile.instructions import (
    Arg,
    Cmd,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Shell,
    Stage,
    Workdir,
)
from firekiln.dockerfile.parser import Syntax
from firekiln.dockerfile.rules import CheckWarning
from firekiln.errors import Location

_RESERVED = frozenset({"context", "scratch"})
_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_OS = ("linux", "windows", "darwin", "freebsd", "wasip1")


def lint(syntax: Syntax, dockerfile: Dockerfile) -> tuple[CheckWarning, ...]:
    """What the checks find, sorted by line; every rule speaks, `check.CheckOptions.select` takes out some."""
    found = [
        *_empty_continuations(syntax),
        *_casing(dockerfile),
        *_stage_names(dockerfile.stages),
        *(warning for stage in dockerfile.stages for warning in _from(stage.base)),
        *_descriptions(dockerfile),
    ]
    by_name: dict[str, _StageCheck] = {}
    for stage in dockerfile.stages:
        check = _StageCheck(by_name.get(stage.base.image.lower()), dockerfile.escape)
        found += check.run(stage)
        if stage.name:
            by_name[stage.name] = check
    return tuple(sorted(found, key=lambda warning: (warning.location.start, warning.rule.name)))


def check_port(word: str, location: Location) -> Iterator[CheckWarning]:
    """One word of EXPOSE, expanded."""
    *host, port = word.split(":")
    _, _, protocol = port.partition("/")
    if protocol != protocol.lower():
        yield rules.EXPOSE_PROTO_CASING.warn(f"the protocol of '{word}' should be in lower case", location)
    if any(host):
        message = f"EXPOSE of '{word}': only port and protocol count, not what stands before"
        yield rules.EXPOSE_INVALID_FORMAT.warn(message, location)


def check_workdir(path: str, location: Location) -> Iterator[CheckWarning]:
    """The first WORKDIR of a stage and its bases, expanded."""
    if not path.startswith("/"):
        message = f"the relative path {_quoted(path)} depends on the base image's WORKDIR"
        yield rules.WORKDIR_RELATIVE_PATH.warn(message, location)


def check_secret(name: str, key: str, location: Location) -> Iterator[CheckWarning]:
    """A variable that `name` (ARG or ENV) sets."""
    if _SECRET.search(key) and not _NO_SECRET.search(key):
        message = f"do not use {name} for secrets ({_quoted(key)}): the image keeps it"
        yield rules.SECRETS_USED_IN_ARG_OR_ENV.warn(message, location)


class _StageCheck:
    """Walks over a stage, knowing what a base stage has settled."""

    def __init__(self, base: _StageCheck | None, escape: str) -> None:
        self.shell_is_set: bool = base is not None and base.shell_is_set
        self.workdir_is_set: bool = base is not None and base.workdir_is_set
        self._escape = escape
        self._last: dict[str, Location] = {}

    def run(self, stage: Stage) -> Iterator[CheckWarning]:
        for instruction in stage.instructions:
            match instruction:
                case Cmd() | Entrypoint():
                    yield from self._once(instruction)
                    yield from self._exec_form(instruction)
                case Healthcheck():
                    yield from self._once(instruction)
                case Workdir():
                    yield from self._workdir(instruction)
                case Shell():
                    self.shell_is_set = True
                case _:
                    yield from _stateless(instruction)

    def _once(self, instruction: Cmd | Entrypoint | Healthcheck) -> Iterator[CheckWarning]:
        earlier = self._last.get(instruction.name)
        if earlier is not None:
            # The earlier one is to blame: it is the one that has no effect.
            message = f"only the last {_keyword(instruction)} of a stage counts, not this one"
            yield rules.MULTIPLE_INSTRUCTIONS_DISALLOWED.warn(message, earlier)
        self._last[instruction.name] = instruction.location

    def _exec_form(self, instruction: Cmd | Entrypoint) -> Iterator[CheckWarning]:
        # A SHELL says that its author has thought about the shell.
        if instruction.command.shell and not self.shell_is_set:
            message = f"JSON arguments recommended for {_keyword(instruction)}: a shell keeps signals from the service"
            yield rules.JSON_ARGS_RECOMMENDED.warn(message, instruction.location)

    def _workdir(self, instruction: Workdir) -> Iterator[CheckWarning]:
        if not self.workdir_is_set:
            self.workdir_is_set = True
            path = _constant(instruction.path, self._escape)
            if path is not None:
                yield from check_workdir(path, instruction.location)


def _stateless(instruction: Instruction) -> Iterator[CheckWarning]:
    where = instruction.location
    match instruction:
        case Arg():
            for item in instruction.args:
                yield from check_secret("ARG", item.key, where)
        case Env():
            yield from _env(instruction)
        case Label() if any(pair.no_delim for pair in instruction.labels):
            yield _legacy(instruction)
        case Maintainer():
            yield rules.MAINTAINER_DEPRECATED.warn(
                "MAINTAINER is deprecated: use LABEL org.opencontainers.image.authors=…", where
            )
        case Expose():
            for word in instruction.ports:
                if "$" not in word:
                    yield from check_port(word, where)
        case _:
            pass


def _env(instruction: Env) -> Iterator[CheckWarning]:
    if any(pair.no_delim for pair in instruction.env):
        yield _legacy(instruction)
    for pair in instruction.env:
        yield from check_secret("ENV", pair.key, instruction.location)


def _legacy(instruction: Env | Label) -> CheckWarning:
    keyword = _keyword(instruction)
    message = f'"{keyword} key=value" should be used instead of the old "{keyword} key value"'
    return rules.LEGACY_KEY_VALUE_FORMAT.warn(message, instruction.location)


def _empty_continuations(syntax: Syntax) -> Iterator[CheckWarning]:
    for warning in syntax.warnings:
        where = Location(file=syntax.file, start=warning.line, end=warning.line)
        yield rules.NO_EMPTY_CONTINUATION.warn("empty continuation line", where)


def _casing(dockerfile: Dockerfile) -> Iterator[CheckWarning]:
    """What most instructions are, upper or lower case, all should be; `Copy` is neither."""
    keywords = [(_keyword(item), item.location) for stage in dockerfile.stages for item in _all(stage)]
    lower = sum(keyword == keyword.lower() for keyword, _ in keywords)
    upper = sum(keyword == keyword.upper() for keyword, _ in keywords)
    wanted = "lowercase" if lower > upper else "uppercase"
    for keyword, where in keywords:
        if keyword != (keyword.lower() if lower > upper else keyword.upper()):
            message = f"'{keyword}' should match the case of most instructions ({wanted})"
            yield rules.CONSISTENT_INSTRUCTION_CASING.warn(message, where)


def _stage_names(stages: Iterable[Stage]) -> Iterator[CheckWarning]:
    seen: set[str] = set()
    for stage in stages:
        if stage.name in _RESERVED:
            yield rules.RESERVED_STAGE_NAME.warn(f'"{stage.name}" is reserved and no name for a stage', stage.location)
        if stage.name and stage.name in seen:
            message = f'duplicate stage name "{stage.name}": stage names should be unique'
            yield rules.DUPLICATE_STAGE_NAME.warn(message, stage.location)
        seen.add(stage.name)


def _from(base: From) -> Iterator[CheckWarning]:
    alias, where = base.alias or "", base.location
    if alias != alias.lower():
        yield rules.STAGE_NAME_CASING.warn(f"stage name '{alias}' should be lowercase", where)
    if alias:
        keyword, as_ = _keyword(base), base.original.split()[-2]
        alike = as_ == (as_.lower() if keyword == keyword.lower() else as_.upper())
        # A keyword of mixed case is ConsistentInstructionCasing's business.
        if keyword in (keyword.lower(), keyword.upper()) and not alike:
            yield rules.FROM_AS_CASING.warn(f"'{as_}' and '{keyword}' keywords' casing do not match", where)
    yield from _platform(base)


def _platform(base: From) -> Iterator[CheckWarning]:
    platform, name = base.platform, (base.alias or "").lower()
    if platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
        message = f"{platform} is the platform of FROM anyway"
        yield rules.REDUNDANT_TARGET_PLATFORM.warn(message, base.location)
    elif platform and "$" not in platform:
        # A stage that is named for its platform means it so.
        parts = platform.lower().split("/")
        meant = any(part in name for part in parts[:2])
        if not meant and (len(parts) > 1 or parts[0] in _OS or parts[0].isalnum()):
            message = f'FROM --platform should not be the constant "{platform}"'
            yield rules.FROM_PLATFORM_FLAG_CONST_DISALLOWED.warn(message, base.location)


def _descriptions(dockerfile: Dockerfile) -> Iterator[CheckWarning]:
    for stage in dockerfile.stages:
        if stage.name:
            yield from _description(stage.base, (stage.name,))
    in_stages = (item for stage in dockerfile.stages for item in stage.instructions if isinstance(item, Arg))
    for arg in (*dockerfile.global_args, *in_stages):
        yield from _description(arg, tuple(item.key for item in arg.args))


def _description(instruction: From | Arg, names: tuple[str, ...]) -> Iterator[CheckWarning]:
    if instruction.comments and instruction.comments[-1].split(" ")[0] not in names:
        example = names[0] if len(names) == 1 else "<arg_key>"
        message = f"the comment for {instruction.name} should be: `# {example} <description>`"
        yield rules.INVALID_DEFINITION_DESCRIPTION.warn(message, instruction.location)


def _all(stage: Stage) -> tuple[From | Instruction, ...]:
    return (stage.base, *stage.instructions)


def _keyword(instruction: From | Instruction) -> str:
    """As written."""
    return instruction.original.split(maxsplit=1)[0]


def _constant(word: str, escape: str) -> str | None:
    """A word's value where no variable decides it."""
    try:
        made = expand(word, {}, escape=escape)
    except ValueError:
        return None
    return None if made.unset else made.text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
