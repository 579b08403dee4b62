"""How an instruction's line becomes words: builder flags first, then one of BuildKit's ways for each instruction.

All functions are pure and raise ValueError with the reason (a MalformedError where one word is to blame); the parser
knows the line. Where BuildKit goes byte by
byte (flags, HEALTHCHECK's first word) so does this: a non-ASCII letter in a flag comes out as its bytes' Latin-1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NoReturn

from firekiln.dockerfile.text import SPACE, MalformedError, decode, encode, printable

WHITESPACE = re.compile(r"[\t\v\f\r ]+")

_BYTE_SPACE = rb"\t\n\v\f\r \x85\xa0"
_FLAG = re.compile(
    rb"""(?:[^\\'"%b]++|\\.|'(?:[^\\']++|\\.)*+(?:'|\\?\Z)|"(?:[^\\"]++|\\.)*+(?:"|\\?\Z))++""" % _BYTE_SPACE, re.DOTALL
)
_UNQUOTE = re.compile(rb"""\\(.)|'((?:[^\\']++|\\.)*+)(?:'|\\?\Z)|"((?:[^\\"]++|\\.)*+)(?:"|\\?\Z)""", re.DOTALL)
_UNESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_BYTE_SPACES = re.compile(rb"[%b]*" % _BYTE_SPACE)
_FIRST_WORD = re.compile(rb"([^%b]+)[%b]*(.*)" % (_BYTE_SPACE, _BYTE_SPACE), re.DOTALL)
_STRINGS_ONLY = "when using JSON array syntax, arrays must be comprised of strings only"


@dataclass(frozen=True, slots=True)
class Arguments:
    """An instruction's words; `json` says that they came as a JSON array."""

    words: tuple[str, ...] = ()
    json: bool = False


def split_instruction(line: str) -> tuple[str, tuple[str, ...] | None, str]:
    """A line's keyword, its flags (`--name[=value]`, unquoted; None where nothing follows it), and the rest."""
    parts = WHITESPACE.split(line.strip(SPACE), maxsplit=1)
    if len(parts) == 1:
        return parts[0], None, ""
    rest, flags = split_flags(parts[1])
    return parts[0], flags, rest.strip(SPACE)


def split_flags(line: str) -> tuple[str, tuple[str, ...]]:
    """The line behind its builder flags, and the flags. `--` alone ends them and is dropped."""
    if not line.lstrip(SPACE).startswith("--"):
        return line, ()
    flags: list[str] = []
    data, position = encode(line), 0
    while True:
        position = _end(_BYTE_SPACES, data, position)
        if not data.startswith(b"--", position):
            return decode(data[position:]), tuple(flags)
        end = _end(_FLAG, data, position)
        flag = _UNQUOTE.sub(_unquoted, data[position:end])
        # What the pattern leaves is a backslash at the very end: dropped.
        position = len(data) if data[end:] == b"\\" else end
        if flag == b"--":
            return decode(data[position:]), tuple(flags)
        flags.append(flag.decode("latin-1"))


def split_quoted(rest: str, escape: str) -> tuple[str, ...]:
    """Words at white space outside of quotes; quotes and escapes stay in them. An escape at the end is dropped."""
    return tuple(printable(match[0]) for match in _quoted_word(escape).finditer(rest))


def parse_arguments(keyword: str, rest: str, escape: str) -> Arguments:
    """The arguments of an instruction (not ONBUILD, whose argument is an instruction), `keyword` in lower case.

    An unknown instruction has one empty argument, as in BuildKit: whether it is known is asked later.
    """
    parse = _PARSERS.get(keyword)
    return parse(rest, escape) if parse else Arguments(("",))


def _whole(rest: str, _escape: str) -> Arguments:
    return Arguments((rest,) if rest else ())


def _at_spaces(rest: str, _escape: str) -> Arguments:
    return Arguments(tuple(WHITESPACE.split(rest)) if rest else ())


def _exec_or_shell(rest: str, _escape: str) -> Arguments:
    strings = parse_json_strings(rest)
    return _whole(rest, _escape) if strings is None else Arguments(strings, json=True)


def _json_or_words(rest: str, escape: str) -> Arguments:
    strings = parse_json_strings(rest)
    return _at_spaces(rest, escape) if strings is None else Arguments(strings, json=True)


def _names_or_pairs(rest: str, escape: str) -> Arguments:
    return Arguments(split_quoted(rest, escape))


def _pairs(keyword: str) -> Callable[[str, str], Arguments]:
    """ENV and LABEL: triples of name, value and separator; the separator is empty in the old form `ENV name value`."""

    def parse(rest: str, escape: str) -> Arguments:
        words = split_quoted(rest, escape)
        if not words:
            return Arguments()
        if "=" not in words[0]:
            name, *value = WHITESPACE.split(rest, maxsplit=1)
            if not value:
                raise ValueError(f"{keyword} must have two arguments")
            return Arguments((name, value[0], ""))
        triples: list[str] = []
        for word in words:
            name, separator, text = word.partition("=")
            if not separator:
                quoted = json.dumps(word, ensure_ascii=False)
                message = f"Syntax error - can't find = in {quoted}. Must be of the form: name=value"
                raise MalformedError(message, span=word)
            triples += (name, text, separator)
        return Arguments(tuple(triples))

    return parse


def _health(rest: str, escape: str) -> Arguments:
    match = _FIRST_WORD.match(encode(rest))
    if match is None:
        return Arguments()
    command = _exec_or_shell(decode(match[2]), escape)
    return Arguments((decode(match[1]), *command.words), json=command.json)


def parse_json_strings(rest: str) -> tuple[str, ...] | None:
    """The strings of a JSON array, None where `rest` is no valid JSON array. ValueError for one of other things."""
    rest = rest.lstrip(SPACE)
    if not rest.startswith("["):
        return None
    try:
        values = _DECODER.decode(rest)
    except ValueError:
        return None
    except RecursionError:
        raise ValueError(_STRINGS_ONLY) from None
    if not all(isinstance(value, str) for value in values):
        raise ValueError(_STRINGS_ONLY)
    return tuple(printable(value) for value in values)


def _number(text: str) -> float:
    """Go's JSON refuses numbers beyond a float64."""
    value = float(text)
    if math.isinf(value):
        raise ValueError("number out of range")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_float=_number, parse_int=_number, parse_constant=_constant)

_PARSERS: dict[str, Callable[[str, str], Arguments]] = {
    "add": _json_or_words,
    "arg": _names_or_pairs,
    "cmd": _exec_or_shell,
    "copy": _json_or_words,
    "entrypoint": _exec_or_shell,
    "env": _pairs("ENV"),
    "expose": _at_spaces,
    "from": _at_spaces,
    "healthcheck": _health,
    "label": _pairs("LABEL"),
    "maintainer": _whole,
    "run": _exec_or_shell,
    "shell": _exec_or_shell,
    "stopsignal": _whole,
    "user": _whole,
    "volume": _json_or_words,
    "workdir": _whole,
}


def _end(pattern: re.Pattern[bytes], data: bytes, position: int) -> int:
    match = pattern.match(data, position)
    return position if match is None else match.end()


def _unquoted(match: re.Match[bytes]) -> bytes:
    escaped, single, double = match.groups()
    if escaped is not None:
        return escaped
    # A backslash escapes within quotes of both kinds.
    return _UNESCAPE.sub(rb"\1", single if single is not None else double)


@cache
def _quoted_word(escape: str) -> re.Pattern[str]:
    e = re.escape(escape)
    return re.compile(
        rf"""(?:[^{SPACE}{e}'"]++|{e}.|'[^']*+(?:'|\Z)|"(?:[^{e}"]++|{e}.)*+(?:"|(?={e}?\Z)))++""", re.DOTALL
    )
