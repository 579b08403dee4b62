"""Build checks, the check directive, and the excerpts that go with them."""

import pytest

from firekiln.dockerfile.check import CheckOptions, in_order, parse_check, violation
from firekiln.dockerfile.convert import convert_syntax
from firekiln.dockerfile.excerpt import excerpt
from firekiln.dockerfile.lint import lint
from firekiln.dockerfile.parser import parse_syntax
from firekiln.dockerfile.rules import RULES
from firekiln.errors import Location


def checked(text):
    syntax = parse_syntax(text)
    return in_order(lint(syntax, convert_syntax(syntax)))


def found(text):
    """The rules that speak, with their lines; experimental ones aside."""
    return [(w.rule.name, w.location.start) for w in checked(text) if not w.rule.experimental]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a AS Web", [("StageNameCasing", 1)]),
        ("FROM a as web", [("FromAsCasing", 1)]),
        ("from a AS web\nrun b", [("FromAsCasing", 1)]),
        ("from a as web\nrun b", []),
        ("FROM a AS x\nFROM a AS X", [("DuplicateStageName", 2), ("StageNameCasing", 2)]),
        ("FROM a AS scratch\nFROM a AS context", [("ReservedStageName", 1), ("ReservedStageName", 2)]),
        ("FROM a\nRUN x \\\n\n y", [("NoEmptyContinuation", 4)]),
        ("FROM a\nrun b\nCopy c d", [("ConsistentInstructionCasing", 2), ("ConsistentInstructionCasing", 3)]),
        ("from a\nrun b\nUSER d", [("ConsistentInstructionCasing", 3)]),
        ("FROM a\nMAINTAINER b", [("MaintainerDeprecated", 2)]),
    ],
)
def test_a_check_speaks_where_buildkits_does(text, expected):
    assert found(text) == expected


def test_the_experimental_checks_are_asked_for_by_name():
    warnings = checked("# something\nFROM a AS web\n# v the version\nARG v\n")
    assert [(w.rule.name, w.location.start) for w in warnings] == [("InvalidDefinitionDescription", 2)]
    assert CheckOptions().select(warnings) == ()
    assert parse_check("experimental=all").select(warnings) == warnings
    assert parse_check("experimental=InvalidDefinitionDescription").select(warnings) == warnings


def test_the_check_directive_skips_rules_and_turns_warnings_into_an_error():
    warnings = checked("FROM a AS Web\nMAINTAINER b\n")
    assert {w.rule.name for w in warnings} == {"StageNameCasing", "MaintainerDeprecated"}
    assert [w.rule.name for w in parse_check("skip=StageNameCasing").select(warnings)] == ["MaintainerDeprecated"]
    assert parse_check("skip=all").select(warnings) == ()
    options = parse_check(" skip = A , B ; error = true ")
    assert (options.skip, options.error) == (frozenset({"A", "B"}), True)
    assert violation(warnings) == "lint violation found for rules: MaintainerDeprecated, StageNameCasing"


@pytest.mark.parametrize("value", ["skip", "error=perhaps", "skip=a;oops=1", "=x"])
def test_a_malformed_check_directive_is_a_value_error(value):
    with pytest.raises(ValueError, match="invalid"):
        parse_check(value)


def test_every_rule_is_known_by_its_name():
    assert RULES["UndefinedVar"].name == "UndefinedVar"
    assert len(RULES) == 22


def test_a_rule_has_dockers_page():
    assert RULES["JSONArgsRecommended"].url == "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
    assert RULES["SecretsUsedInArgOrEnv"].url.endswith("/secrets-used-in-arg-or-env/")


# --- excerpts -------------------------------------------------------------------------------------------------------

SOURCE = "FROM a\n\nRUNN b\nCMD \\\n  c\nUSER d"


def at(start, end=None):
    return Location(file="Dockerfile", start=start, end=end or start)


def test_an_excerpt_shows_two_lines_around_one_and_underlines_the_span():
    assert excerpt(SOURCE, at(3), span="RUNN").splitlines() == [
        "Dockerfile:3",
        "--------------------",
        "   1 |     FROM a",
        "   2 |",
        "   3 | >>> RUNN b",
        "     |     ^^^^",
        "   4 |     CMD \\",
        "   5 |       c",
        "--------------------",
    ]


def test_an_excerpt_shows_one_line_around_several():
    lines = excerpt(SOURCE, at(4, 5)).splitlines()
    assert lines[2:-1] == ["   3 |     RUNN b", "   4 | >>> CMD \\", "   5 | >>>   c", "   6 |     USER d"]


def test_a_caret_stands_under_a_word_rather_than_in_the_midst_of_another():
    lines = excerpt("FROM webster AS web", at(1), span="web").splitlines()
    assert lines[3] == "     |                     ^^^"


def test_a_caret_stands_under_wide_characters_and_behind_tabs():
    lines = excerpt("RUN\t漢 x", at(1), span="x").splitlines()
    assert lines[3] == "     |        \t   ^"


def test_an_excerpt_does_not_command_the_terminal():
    assert "\x1b" not in excerpt("RUN \x1b[2J\u202e\udcff", at(1))


def test_a_place_outside_of_the_text_has_no_excerpt():
    assert excerpt(SOURCE, at(7)) == ""
    assert excerpt(SOURCE, at(0)) == ""
