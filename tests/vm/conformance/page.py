"""docs/conformance.md, made of the cases. Run as a program it writes the page."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from cases import CASES, Case

PAGE = Path(__file__).parents[3] / "docs" / "conformance.md"
HEAD = """\
# What a Dockerfile says, in the machine

Each row is a small Dockerfile that is built, booted and looked at (`tests/vm/conformance`; all of them by
`./scripts/test --all`, a few in every run). Where a Docker Engine is at hand the same text is built and run there too,
and has to say the same. The page is made by `tests/vm/conformance/page.py`.
"""


def render() -> str:
    parts = [HEAD]
    for instruction, group in groupby(CASES, key=lambda case: case.instruction):
        parts.append(f"\n## {instruction}\n\n| form | in the machine | Docker |\n|---|---|---|\n")
        parts += [f"| {_cell(case.form)} | {_result(case)} | {_docker(case)} |\n" for case in group]
    return "".join(parts)


def _result(case: Case) -> str:
    found = []
    if case.says:
        found.append(f"says `{_cell(case.says.rstrip().replace(chr(10), ' ⏎ '))}`")
    if case.status or not found:
        found.append(f"ends with {case.status}")
    if case.health:
        found.append(f"becomes {case.health}")
    found += [f"`inspect` shows {key}" for key in case.config]
    return ", ".join(found)


def _docker(case: Case) -> str:
    if case.docker:
        return _cell(case.docker)
    return f"the same (not asked: {case.unasked})" if case.unasked else "the same"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


if __name__ == "__main__":
    PAGE.write_text(render())
