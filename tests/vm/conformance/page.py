"""docs/conformance.md, made of the cases. Run as a program it writes the page."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from case import Case, Told
from cases import CASES

ENGINE = "20.10.24"
"""The Docker Engine that was asked: that of Debian 12's docker.io."""

PAGE = Path(__file__).parents[3] / "docs" / "conformance.md"
HEAD = f"""\
# What a Dockerfile says, in the machine

Each row is a small Dockerfile that is built, booted and looked at by
`test_the_machine_does_what_the_instruction_says` in `tests/vm/conformance`: all rows by `./scripts/test --all`, those
in bold in every run. The first column is the test's name: `pytest tests/vm/conformance -k RUN-01`.

The column "Docker" is what `test_docker_does_what_the_table_says` saw when the same text was built and run by Docker
Engine {ENGINE} with its BuildKit (Debian 12's docker.io; `docker/dockerfile` 1.2). "1.4: not asked" marks what needs
that version of `docker/dockerfile`, which this engine lacks. "Same in 1.26" stands where BuildKit's recorded answers of
that version to this form are the same, to which `tests/golden` and `tests/root/test_semantics_*.py` hold us.

The page is made by `tests/vm/conformance/page.py`. Tests hold that no instruction, flag or kind of mount that the
parser knows is missing.
"""


def render() -> str:
    parts = [HEAD]
    for instruction, group in groupby(CASES.items(), key=lambda item: item[1].instruction):
        parts.append(f"\n## {instruction}\n\n| test | form | Docker | firekiln |\n|---|---|---|---|\n")
        parts += [_row(name, case) for name, case in group]
    return "".join(parts)


def _row(name: str, case: Case) -> str:
    shown = f"**{name}**" if case.in_every_run else name
    return f"| {shown} | {_cell(case.form)} | {_docker(case)} | {_firekiln(case)} |\n"


def _firekiln(case: Case) -> str:
    if case.refused:
        return f"refused: {_code(case.refused)}"
    found = [_told(case.told)] if case.boots else []
    found += [f"`inspect` shows {key}" for key in case.config]
    found += [f"`image inspect` shows {key}" for key in case.image]
    return ", ".join(found)


def _docker(case: Case) -> str:
    words = []
    if case.unasked:
        words.append(f"not asked: {_cell(case.unasked)}")
    elif case.docker:
        words.append(_told(case.docker))
    elif case.since:
        words.append(f"1.{case.since}: not asked")
    else:
        words.append("the same")
    if case.recorded:
        words.append("same in 1.26")
    if case.note:
        words.append(_cell(case.note))
    return "; ".join(words)


def _told(told: Told) -> str:
    if told.refused:
        return "refused"
    says = f"says {_code(told.says.rstrip().replace(chr(10), ' ⏎ '))}" if told.says else ""
    ends = f"ends with {told.status}" if told.status or not told.says else ""
    return ", ".join(filter(None, (told.health, says, ends)))


def _code(text: str) -> str:
    """Code in a cell, where only the bar has to be escaped."""
    fence = "``" if "`" in text else "`"
    return fence + text.replace("|", "\\|") + fence


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(render())
