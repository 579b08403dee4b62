"""A terminal as small as progress needs it: what stands on it, and above it, after what was written."""

from __future__ import annotations

import re
import unicodedata

_PIECE = re.compile(r"\x1b\[(?P<number>[0-9;]*)(?P<command>[A-Za-z])|(?P<text>[\s\S])")


class Terminal:
    """Lines break at `columns`; of the cursor's movements only those to a line's beginning are known."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.height = columns, lines
        self.rows = [""]
        self._row = 0

    def write(self, text: str) -> int:
        for piece in _PIECE.finditer(text):
            self._take(piece)
        return len(text)

    def flush(self) -> None:
        pass

    def resize(self, columns: int, lines: int) -> None:
        """As terminals do that break their lines anew, the cursor standing at the end."""
        joined = self.rows
        self.columns, self.height = columns, lines
        self.rows = []
        for row in joined:
            self.rows += [row[at : at + columns] for at in range(0, len(row), columns)] or [""]
        self._row = len(self.rows) - 1

    @property
    def text(self) -> list[str]:
        """All lines, those that have scrolled away too."""
        return [row.rstrip() for row in self.rows if row.strip()]

    def _take(self, piece: re.Match[str]) -> None:
        match piece["command"], piece["text"]:
            case "F", _:
                top = max(0, len(self.rows) - self.height)
                self._row = max(top, self._row - int(piece["number"]))
            case "J", _:
                del self.rows[self._row :]
                self.rows.append("")
            case "m", _:
                pass
            case None, "\n":
                self._down()
            case None, "\r":
                raise AssertionError("not expected of a view that moves by lines")
            case None, character if character.isprintable():
                self._put(character)
            case _:
                raise AssertionError(f"{piece[0]!r} commands the terminal")

    def _put(self, character: str) -> None:
        if width(self.rows[self._row] + character) > self.columns:
            self._down()
        self.rows[self._row] += character

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self.rows):
            self.rows.append("")


def width(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
