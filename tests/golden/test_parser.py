"""Syntax trees, and what is refused before any stage is planned, against BuildKit's own answers.

`FIREKILN_GOLDEN` names the folder of answers; else `../shared/golden` beside the checkout. Without it the tests skip.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from firekiln.dockerfile.convert import convert_syntax, parse_dockerfile
from firekiln.dockerfile.lint import lint
from firekiln.dockerfile.parser import parse_syntax
from firekiln.dockerfile.printing import print_syntax
from firekiln.dockerfile.view import view_syntax
from firekiln.errors import DockerfileError

FOLDER = Path(os.environ.get("FIREKILN_GOLDEN") or Path(__file__).parents[2] / ".." / "shared" / "golden")
REFUSED = re.compile(r"dockerfile parse error on line (\d+): (.*)", re.DOTALL)

# BuildKit names the line before the one with the bad directive or too many bytes; we name the line itself.
LINE_BEFORE = {"escape bad", "escape twice", "check twice", "64k line"}
# There BuildKit blames the heredoc that the overlong line cuts off.
OVERLONG_IN_HEREDOC = "64k heredoc line"


def rows(name):
    path = FOLDER / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


DOCKERFILES, TRICKY = rows("dockerfiles.jsonl"), rows("parser-tricky.jsonl")

pytestmark = pytest.mark.skipif(not (DOCKERFILES and TRICKY), reason="no golden folder: set FIREKILN_GOLDEN")


def refusal(parse, text):
    with pytest.raises(DockerfileError) as caught:
        parse(text)
    return caught.value


def without_lines(nodes):
    return [replace(node, start=0, end=0, comments=node.comments or ()) for node in nodes]


@pytest.mark.parametrize("row", [*DOCKERFILES, *TRICKY], ids=lambda row: row["name"])
def test_the_syntax_tree_is_buildkits(row):
    ast = row["ast"]
    if "err" in ast:
        error = refusal(parse_syntax, row["text"])
        if row["name"] == OVERLONG_IN_HEREDOC:
            assert "greater than max allowed size" in error.message
            return
        assert error.message == ast["err"]
        if error.location is not None and "errline" in ast:
            assert error.location.start == ast["errline"][0] + (row["name"] in LINE_BEFORE)
        return
    expected = {"escape": ast["esc"], "instructions": ast["ins"], "warnings": ast["warn"]}
    assert view_syntax(parse_syntax(row["text"])) == expected
    # The view is for JSON: what it holds must survive it.
    assert json.loads(json.dumps(expected)) == expected


@pytest.mark.parametrize("row", DOCKERFILES, ids=lambda row: row["name"])
def test_what_buildkit_refuses_is_refused_on_the_same_line(row):
    refused = REFUSED.match(row["error"] or "")
    if refused is not None:
        error = refusal(parse_dockerfile, row["text"])
        assert error.location.start == int(refused[1])
        # Of several words equally near, BuildKit takes any.
        assert error.message.partition(" (did")[0] == refused[2].partition(" (did")[0]
    elif row["ast"].get("err") or row["error"] == "no build stage in current context":
        refusal(parse_dockerfile, row["text"])
    else:
        dockerfile = parse_dockerfile(row["text"])
        instructions = [item for stage in dockerfile.stages for item in (stage.base, *stage.instructions)]
        converted = sorted((*dockerfile.global_args, *instructions), key=lambda item: item.location.start)
        assert [item.location.start for item in converted] == [ins["Start"] for ins in row["ast"]["ins"]]
        assert [item.name for item in converted] == [ins["Cmd"].upper() for ins in row["ast"]["ins"]]


def test_every_file_that_parses_can_be_printed_and_parsed_again():
    for row in (row for row in (*DOCKERFILES, *TRICKY) if "err" not in row["ast"]):
        syntax = parse_syntax(row["text"])
        printed = print_syntax(syntax)
        again = parse_syntax(printed)
        assert without_lines(again.nodes) == without_lines(syntax.nodes), row["name"]
        assert again.escape == syntax.escape
        assert print_syntax(again) == printed


def test_every_file_that_converts_can_be_checked():
    for row in DOCKERFILES:
        try:
            syntax = parse_syntax(row["text"])
            dockerfile = convert_syntax(syntax)
        except DockerfileError:
            continue
        for warning in lint(syntax, dockerfile):
            assert 1 <= warning.location.start <= row["text"].count("\n") + 1


def test_parsing_takes_less_than_a_millisecond_a_file():
    started = time.process_time()
    for row in DOCKERFILES:
        try:
            parse_dockerfile(row["text"])
        except DockerfileError:
            continue
    assert (time.process_time() - started) / len(DOCKERFILES) < 0.001
