"""A parsed file as text again, each instruction on one line: parsing it gives the same instructions.

What is lost: empty lines, comments within instructions and behind the last one, how an instruction was broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from firekiln.dockerfile.directives import DirectiveReader
from firekiln.dockerfile.parser import MAX_LINE, Node, Syntax
from firekiln.dockerfile.text import SPACE, encode

_BREAK = re.compile(r"[A-Za-z0-9](?=[A-Za-z0-9])")
_PIECE = MAX_LINE // 4 - 8
"""Characters; each has at most four bytes, and an escape follows."""


def print_syntax(syntax: Syntax) -> str:
    """The text. An instruction of more than 65,535 bytes is broken between two letters or digits."""
    # A comment of the first lines that has a directive's form, but was none, must not become one.
    lines = list(_directives(syntax))
    comments = next(iter(syntax.nodes)).comments or ()
    first = f"#{comments[0]}" if comments else ""
    if DirectiveReader().read(first, 1) is not None:
        lines.append("")
    for node in syntax.nodes:
        lines += _print_node(node, syntax.escape)
    text = "\n".join(lines) + "\n"
    # The parser takes one byte-order mark away: one that belongs to the first word needs another before it.
    return f"\ufeff{text}" if text.startswith("\ufeff") else text


def _directives(syntax: Syntax) -> Iterator[str]:
    if syntax.source.removeprefix("\ufeff").startswith("#!"):
        return  # to the parser, what follows are comments
    for directive in syntax.directives.values():
        yield f"# {directive.name}={directive.value}"


def _print_node(node: Node, escape: str) -> Iterator[str]:
    for comment in node.comments or ():
        close = comment.startswith("!") or len(encode(comment)) + 2 > MAX_LINE
        yield f"#{comment}" if close else f"# {comment}"
    yield from _print_line(node.original, escape)
    for heredoc in node.heredocs:
        yield f"{heredoc.content}{heredoc.name}"


def _print_line(original: str, escape: str) -> Iterator[str]:
    """The lines that join to `original`.

    White space at its beginning stays only behind a continuation; an end that would itself be taken for one, or be
    cut off, is there only where the file ended in the midst of an instruction: so it ends again.
    """
    if original[:1] in tuple(SPACE):
        yield escape
    rest = original
    while len(rest) > _PIECE and len(encode(rest)) > MAX_LINE - 1:
        match = None
        for match in _BREAK.finditer(rest, 0, _PIECE):  # noqa: B007 - the last one is wanted
            pass
        if match is None:
            break
        yield rest[: match.end()] + escape
        rest = rest[match.end() :]
    stripped = rest.rstrip(" \t")
    cut = stripped.endswith(escape) and not stripped.endswith(escape * 2)
    unfinished = cut or rest.endswith("\r") or not rest.strip(SPACE)
    yield rest + escape if unfinished else rest
