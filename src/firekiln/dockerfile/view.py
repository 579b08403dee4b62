"""`firekiln dockerfile parse --format json`: a parsed file in the words of BuildKit's own syntax tree.

`{"escape", "instructions", "warnings"}`; an instruction has `Cmd`, `Original`, `Flags`, `Args`, `JSON`, `Heredocs`
(`Name`, `Content`, `FD`, `Expand`, `Chomp`), `Start`, `End`, `Sub` and `Comments`. Empty lists are null where Go's
are nil: `Args`, `Heredocs` and `warnings` when empty, `Flags` where nothing follows the keyword.
"""

from __future__ import annotations

from typing import TypeAlias

from firekiln.dockerfile.heredoc import Heredoc
from firekiln.dockerfile.parser import Node, Syntax
from firekiln.dockerfile.text import printable

Json: TypeAlias = bool | int | str | list["Json"] | dict[str, "Json"] | None


def view_syntax(syntax: Syntax) -> dict[str, Json]:
    """The whole file."""
    return {
        "escape": syntax.escape,
        "instructions": [view_node(node) for node in syntax.nodes],
        "warnings": _strings(tuple(warning.message for warning in syntax.warnings)) or None,
    }


def view_node(node: Node) -> dict[str, Json]:
    """One instruction."""
    return {
        "Cmd": printable(node.keyword),
        "Original": printable(node.original),
        "Flags": _strings(node.flags),
        "Args": _strings(node.args) or None,
        "JSON": node.json,
        "Heredocs": [_heredoc(heredoc) for heredoc in node.heredocs] or None,
        "Start": node.start,
        "End": node.end,
        "Sub": None if node.sub is None else view_node(node.sub),
        "Comments": _strings(node.comments),
    }


def _heredoc(heredoc: Heredoc) -> dict[str, Json]:
    return {
        "Name": printable(heredoc.name),
        "Content": printable(heredoc.content),
        "FD": heredoc.fd,
        "Expand": heredoc.expand,
        "Chomp": heredoc.chomp,
    }


def _strings(words: tuple[str, ...] | None) -> list[Json] | None:
    return None if words is None else [printable(word) for word in words]
