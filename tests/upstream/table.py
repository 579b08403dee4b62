"""The table of `docs/upstream.md`: a row for each text, whose cells the tests of builds and of boots hold up to date.

With `FIREKILN_UPSTREAM_WRITE` set, what the tests saw is written instead (`scripts/upstream` does that).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

_PAGE = Path(__file__).parents[2] / "docs/upstream.md"
_COLUMNS = ("Dockerfile", "Bases", "Built", "What the VM answered")
Column = Literal["Bases", "Built", "What the VM answered"]


def rows() -> dict[str, dict[str, str]]:
    """The cells by column, by text."""
    found = {}
    for line in _PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == len(_COLUMNS):
            found[cells[0].strip("`")] = dict(zip(_COLUMNS, cells, strict=True))
    return found


def hold(path: str, column: Column, seen: str) -> None:
    """Fail where the table's cell is another than what was seen; or write it there."""
    if os.environ.get("FIREKILN_UPSTREAM_WRITE"):
        _write(path, column, seen)
    assert rows().get(path, {}).get(column) == seen, "docs/upstream.md is old: scripts/upstream writes it"


def _write(path: str, column: Column, seen: str) -> None:
    known = rows()
    known[path] = {**dict.fromkeys(_COLUMNS, ""), "Dockerfile": f"`{path}`", **known.get(path, {}), column: seen}
    lines = [
        "| " + " | ".join(_COLUMNS) + " |",
        "|" + "---|" * len(_COLUMNS),
        *("| " + " | ".join(row[name] for name in _COLUMNS) + " |" for _, row in sorted(known.items())),
    ]
    head, _, rest = _PAGE.read_text().partition("<!-- table -->\n")
    tail = rest.partition("<!-- end of table -->\n")[2]
    _PAGE.write_text("\n".join([head + "<!-- table -->", *lines, "<!-- end of table -->\n"]) + tail)
