"""Parser directives: `# syntax=…`, `# escape=…`, `# check=…`, in the first lines of a file.

They end at the first line that is none: another comment, an empty line, an unknown name.
"""

from __future__ import annotations

import re

from firekiln.dockerfile.text import ASCII_SPACE, SPACE
from firekiln.values import dataclass

NAMES = ("syntax", "escape", "check")

_DIRECTIVE = re.compile(rf"([a-zA-Z][a-zA-Z0-9]*)[{ASCII_SPACE}]*=[{ASCII_SPACE}]*+(.+)?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """One directive; `name` is in lower case, `line` counts from 1."""

    name: str
    value: str
    line: int


class DirectiveReader:
    """Reads directives line by line, as long as there are any."""

    def __init__(self) -> None:
        self.done = False
        self._seen: set[str] = set()

    def read(self, line: str, number: int) -> Directive | None:
        """The directive that `line` is, None where it is none (and no later one will be). ValueError for a second."""
        if self.done:
            return None
        match = _DIRECTIVE.match(line[1:].lstrip(SPACE)) if line.startswith("#") else None
        if match is None or match[2] is None or match[1].lower() not in NAMES:
            self.done = True
            return None
        name = match[1].lower()
        if name in self._seen:
            raise ValueError(f"only one {name} parser directive can be used")
        self._seen.add(name)
        return Directive(name=name, value=match[2].rstrip(ASCII_SPACE), line=number)


def find_directives(text: str) -> dict[str, Directive]:
    """The directives of a whole text, by name. Unlike the parser this looks behind a `#!` line too, as BuildKit does
    for `syntax` and `check`, and never fails.
    """
    lines = text.removeprefix("\ufeff").split("\n", len(NAMES) + 2)
    found: dict[str, Directive] = {}
    reader = DirectiveReader()
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith("#!"):
            continue
        try:
            directive = reader.read(line.rstrip("\r"), number)
        except ValueError:
            break
        if directive is None:
            break
        found[directive.name] = directive
    return found
