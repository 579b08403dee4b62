"""Expansion, heredoc words, durations, suggestions: the small parts."""

import time

import pytest

from firekiln.dockerfile.durations import parse_duration
from firekiln.dockerfile.expand import expand, expand_heredoc, split_words
from firekiln.dockerfile.heredoc import Heredoc, parse_heredoc, run_script
from firekiln.dockerfile.suggestions import did_you_mean, nearest

ENV = {"a": "1", "path": "/usr/lib/x.tar.gz", "empty": "", "two": "x y"}


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("$a-${a}", "1-1"),
        ("$none", ""),
        ("'$a'\"$a\"\\$a", "$a1$a"),
        ("${none:-d}${none-d}${empty:-e}${empty-f}", "dde"),
        ("${a:+x}${none:+y}${empty:+z}${empty+w}", "xw"),
        ("${path#*/}", "usr/lib/x.tar.gz"),
        ("${path##*/}", "x.tar.gz"),
        ("${path%.*}", "/usr/lib/x.tar"),
        ("${path%%.*}", "/usr/lib/x"),
        ("${path/lib/share}", "/usr/share/x.tar.gz"),
        ("${path//\\//:}", ":usr:lib:x.tar.gz"),
        ("${none:-${a:-${two}}}", "1"),
    ],
)
def test_a_word_expands_as_in_buildkit(word, text):
    assert expand(word, ENV).text == text


def test_an_unquoted_value_splits_into_words_and_an_empty_one_is_none():
    assert expand("$two '$two' \"$two\" $empty ''", ENV).words == ("x", "y", "$two", "x y")


def test_expansion_tells_what_was_used_and_what_was_not_there():
    made = expand("$a ${none:-$other}", ENV)
    assert (made.used, made.unset) == (frozenset({"a"}), frozenset({"none", "other"}))


def test_the_escape_character_may_be_the_backtick():
    assert expand("`$a \\x", ENV, escape="`").text == "$a \\x"


def test_quotes_mean_nothing_in_a_heredoc():
    assert expand_heredoc("'$a' \"\\$a\"\n", ENV).text == "'1' \"$a\"\n"


@pytest.mark.parametrize(
    "word", ["${", "${a", "${}", "'a", '"a', "${a:?}x${none:?gone}", "${a!b}", "${" * 5000, "${a#" + "\\q}"]
)
def test_what_cannot_be_expanded_is_a_value_error(word):
    with pytest.raises(ValueError, match="failed to process"):
        expand(word, ENV)


def test_a_pattern_that_would_take_for_ever_is_refused_at_once():
    started = time.process_time()
    for word in ("${v/*a*a*a*a*b/}", "${v##$p}"):
        with pytest.raises(ValueError, match="too many wildcards"):
            expand(word, {"v": "a" * 50_000, "p": "*a*a*a*b"})
    assert time.process_time() - started < 1


def test_words_can_be_found_without_taking_quotes_away():
    line = 'a "b c" \\d'
    assert split_words(line) == ["a", "b c", "d"]
    assert split_words(line, raw_quotes=True, raw_escapes=True) == ["a", '"b c"', "\\d"]


# --- heredocs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["", "E", "<E", "<<", "<<-", "<<''", "<<<E", "x<<E", "<<E F", "<<E'", "<<a<b"])
def test_a_word_that_opens_no_heredoc(word):
    assert parse_heredoc(word) is None


def run(line, **contents):
    return run_script(line, tuple(Heredoc(name=name, content=text) for name, text in contents.items()))


def test_a_heredoc_alone_is_the_script():
    assert run("<<E", E="a\nb\n") == "a\nb\n"
    assert run_script("<<-E", (Heredoc(name="E", content="\ta\n", chomp=True),)) == "a\n"


def test_a_heredoc_with_a_hash_bang_is_a_program():
    made = run("<<E", E="#!/bin/python\n")
    assert isinstance(made, Heredoc)
    assert made.name == "E"


def test_heredocs_within_a_command_are_left_to_the_shell():
    assert run("cat <<A; cat <<B", A="1\n", B="2\n") == "cat <<A; cat <<B\n1\nA\n2\nB"


# --- durations and suggestions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("1ns", 1),
        ("1.5us", 1500),
        ("2µs", 2000),
        ("1h2m3.004s", 3_723_004_000_000),
        (".5s", 500_000_000),
        ("-1s", -1_000_000_000),
        ("+1m", 60_000_000_000),
    ],
)
def test_a_duration_is_read_as_go_does(text, nanoseconds):
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "1", "s", ".s", "1s ", "1d", "1m1", "--1s", "9999999h", "1" * 200 + "s", "1e3s"])
def test_what_is_no_duration_is_a_value_error(text):
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


def test_a_suggestion_is_at_most_two_edits_away_and_never_the_word_itself():
    words = ("copy", "cmd", "run")
    assert nearest("copyy", words) == "copy"
    assert nearest("copy", words) is None
    assert nearest("elephant", words) is None
    assert did_you_mean("rum", words) == " (did you mean run?)"
    assert did_you_mean("x" * 10**6, words) == ""
