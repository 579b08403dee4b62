"""Heredocs: `RUN <<EOF`, `COPY <<-"EOF" /file`, `3<<EOF`."""

from __future__ import annotations

import re

from firekiln.dockerfile.expand import split_words
from firekiln.values import dataclass

_MARKER = re.compile(r"^(\d*)<<(-?)[ \t\f\r\n]*([^<]*)\Z", re.ASCII)
_MAX_UINT = 2**64 - 1
_TABS = re.compile(r"^\t+", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heredoc:
    """One heredoc. `content` is as written, each line with its end; `chomp` (`<<-`) means that its leading tabs are
    still to go. `expand` is false where any part of the name was quoted. `fd` is the number before `<<`, else 0.
    """

    name: str
    content: str = ""
    fd: int = 0
    expand: bool = True
    chomp: bool = False

    @property
    def data(self) -> str:
        """The content as its reader gets it."""
        return chomp_content(self.content) if self.chomp else self.content


def parse_heredoc(word: str) -> Heredoc | None:
    """The heredoc that a whole word opens, None where it opens none."""
    match = _MARKER.match(word)
    if match is None or not match[3]:
        return None
    try:
        names, raw = split_words(match[3]), split_words(match[3], raw_quotes=True)
    except ValueError:
        return None
    if len(names) != 1:
        return None
    return Heredoc(
        name=names[0], fd=_descriptor(match[1]), chomp=bool(match[2]), expand=_quotes(names[0]) == _quotes(raw[0])
    )


def heredocs_of(line: str) -> list[Heredoc]:
    """The heredocs that an instruction's line opens, in order. A line that is no shell words opens none."""
    try:
        words = split_words(line, raw_quotes=True, raw_escapes=True)
    except ValueError:
        return []
    return [heredoc for word in words if (heredoc := parse_heredoc(word)) is not None]


def chomp_content(content: str) -> str:
    """Take every line's leading tabs away, as `<<-` does."""
    return _TABS.sub("", content)


def run_script(line: str, heredocs: tuple[Heredoc, ...]) -> str | Heredoc:
    """What a RUN with heredocs gives to the shell.

    `RUN <<EOF` alone: the content is the script, or, where it begins with `#!`, the heredoc itself is returned: it is
    to be run as an executable file of its name. Anything more is written out again for the shell to read.
    """
    if parse_heredoc(line) is not None:
        first = heredocs[0]
        return first if first.content.startswith("#!") else first.data
    return line + "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in heredocs)


def _quotes(word: str) -> int:
    return word.count("'") + word.count('"')


def _descriptor(digits: str) -> int:
    """What does not fit into 64 bits is their largest number, as Go's ParseUint has it."""
    digits = digits.lstrip("0")
    return min(int(digits or 0), _MAX_UINT) if len(digits) <= 20 else _MAX_UINT
