"""`-f`/`--format`: the part of Go's templates that people type at Docker's commands.

`{{.A.B}}`, `{{.}}`, `{{json .A}}`, `{{index .A "key"}}` (also with a number), text between them. Anything else is
refused, not guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from firekiln.errors import UsageError

_ACTION: Final = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_PATH: Final = re.compile(r"\.|(?:\.[A-Za-z_][A-Za-z0-9_]*)+")
_INDEX: Final = re.compile(r'index\s+(\.[A-Za-z0-9_.]*)\s+(?:"([^"]*)"|(\d+))')
_JSON: Final = re.compile(r"json\s+(\S+)")


def render(template: str, value: Any) -> str:
    """The template with its actions carried out on a JSON value. UsageError for what is not supported."""
    return _ACTION.sub(lambda match: _action(match[1], value), template.replace(r"\n", "\n").replace(r"\t", "\t"))


def print_each(style: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print each row by `--format`: json, or a template. UsageError for anything else."""
    show: Callable[[dict[str, Any]], str]
    if style == "json":
        show = lambda row: json.dumps(row, ensure_ascii=False)  # noqa: E731 - one of two ways
    elif "{{" in style:
        show = lambda row: render(style, row)  # noqa: E731 - the other
    else:
        raise UsageError(f"--format {style}: it is neither table nor json, and holds no {{{{…}}}}")
    for row in rows:
        click.echo(show(row))


def print_inspected(style: str | None, found: Sequence[dict[str, Any]]) -> None:
    """Print what `inspect` found: by `--format`, else all of it as one indented JSON list. UsageError."""
    if style is None:
        click.echo(json.dumps(found, indent=4, ensure_ascii=False))
    else:
        print_each(style, found)


def _action(action: str, value: Any) -> str:
    if match := _JSON.fullmatch(action):
        return json.dumps(_look_up(match[1], value), ensure_ascii=False, separators=(",", ":"))
    if match := _INDEX.fullmatch(action):
        return _shown(_index(_look_up(match[1], value), match[2], match[3]))
    return _shown(_look_up(action, value))


def _look_up(path: str, value: Any) -> Any:
    if _PATH.fullmatch(path) is None:
        raise UsageError(
            f"template parsing error: {{{{{path}}}}} is not supported",
            hint='{{.A.B}}, {{json .A}} and {{index .A "key"}} are; `--format json` shows all there is',
        )
    for name in filter(None, path.split(".")):
        if not isinstance(value, dict) or name not in value:
            raise UsageError(f'template parsing error: there is no field "{name}" in {path}')
        value = value[name]
    return value


def _index(value: Any, key: str | None, number: str | None) -> Any:
    found: Callable[[], Any] = lambda: value[key if key is not None else int(number or 0)]  # noqa: E731 - tried below
    try:
        return found()
    except (KeyError, IndexError, TypeError):
        return ""


def _shown(value: Any) -> str:
    """As Go prints it: lists in brackets, maps as `map[k:v]`."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return str(value).lower()
        case list():
            return f"[{' '.join(map(_shown, value))}]"
        case dict():
            return f"map[{' '.join(f'{key}:{_shown(item)}' for key, item in sorted(value.items()))}]"
        case _:
            return str(value)
