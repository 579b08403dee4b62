"""Build checks that the text alone answers, as BuildKit's parser does: of the whole file, whatever the target is.

The checks that BuildKit makes while it plans (`build/plan/checks.py`) see expanded words, base images and only the
stages that the target needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from firekiln.dockerfile import rules
from firekiln.dockerfile.instructions import Arg, Dockerfile, From, Instruction, Maintainer, Stage
from firekiln.dockerfile.parser import Syntax
from firekiln.dockerfile.rules import CheckWarning
from firekiln.errors import Location

_RESERVED = frozenset({"context", "scratch"})


def lint(syntax: Syntax, dockerfile: Dockerfile) -> tuple[CheckWarning, ...]:
    """What the checks find, in no order; every rule speaks, `check.CheckOptions.select` takes out some."""
    return (
        *_empty_continuations(syntax),
        *_casing(dockerfile),
        *_stage_names(dockerfile.stages),
        *(warning for stage in dockerfile.stages for warning in _from(stage.base)),
        *_maintainers(dockerfile),
        *_descriptions(dockerfile),
    )


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
            yield rules.CONSISTENT_INSTRUCTION_CASING.warn(message, where, span=keyword)


def _stage_names(stages: Iterable[Stage]) -> Iterator[CheckWarning]:
    seen: set[str] = set()
    for stage in stages:
        name, where, span = stage.name, stage.location, stage.base.alias
        if name in _RESERVED:
            yield rules.RESERVED_STAGE_NAME.warn(f'"{name}" is reserved and no name for a stage', where, span=span)
        if name and name in seen:
            message = f'duplicate stage name "{name}": stage names should be unique'
            yield rules.DUPLICATE_STAGE_NAME.warn(message, where, span=span)
        seen.add(name)


def _from(base: From) -> Iterator[CheckWarning]:
    alias, where = base.alias or "", base.location
    if alias != alias.lower():
        yield rules.STAGE_NAME_CASING.warn(f"stage name '{alias}' should be lowercase", where, span=alias)
    if alias:
        keyword, as_ = _keyword(base), base.original.split()[-2]
        alike = as_ == (as_.lower() if keyword == keyword.lower() else as_.upper())
        # A keyword of mixed case is ConsistentInstructionCasing's business.
        if keyword in (keyword.lower(), keyword.upper()) and not alike:
            yield rules.FROM_AS_CASING.warn(f"'{as_}' and '{keyword}' keywords' casing do not match", where, span=as_)


def _maintainers(dockerfile: Dockerfile) -> Iterator[CheckWarning]:
    for instruction in (item for stage in dockerfile.stages for item in stage.instructions):
        if isinstance(instruction, Maintainer):
            message = "MAINTAINER is deprecated: use LABEL org.opencontainers.image.authors=…"
            yield rules.MAINTAINER_DEPRECATED.warn(message, instruction.location, span=_keyword(instruction))


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
