"""`.dockerignore`."""

import pytest

from firekiln.dockerfile.ignore import IgnorePatterns, ignore_lines, read_ignore
from firekiln.errors import DockerfileError


def test_lines_are_cleaned_and_comments_dropped():
    text = "\ufeff# no\n\n  a/../b/ \r\n/c\n!  /d//e/\n #f\n"
    assert ignore_lines(text) == ["b", "c", "!d/e", "#f"]


def test_the_last_pattern_that_matches_decides():
    patterns = read_ignore("*\n!src\nsrc/*.o\n!src/keep.o\n")
    left_out = [path for path in ("a", "src", "src/a.c", "src/a.o", "src/keep.o") if patterns.matches(path)]
    assert left_out == ["a", "src/a.o"]


def test_a_directory_takes_all_below_it_out():
    patterns = read_ignore("node_modules\n**/*.pyc\n")
    assert patterns.matches("node_modules/a/b")
    assert not patterns.matches("x/node_modules/a")
    assert patterns.matches("x/y/z.pyc")


def test_a_directory_left_out_must_be_walked_only_where_something_may_come_back():
    patterns = read_ignore("a\nb\n!a/keep\n")
    assert patterns.may_match_under("a")
    assert not patterns.may_match_under("b")


def test_no_pattern_matches_nothing():
    assert not IgnorePatterns(())
    assert not IgnorePatterns(()).matches("a")
    assert IgnorePatterns(("a",))


@pytest.mark.parametrize("text", ["a\n[a-\n", "!\n", "\\\n"])
def test_a_malformed_pattern_is_refused_with_the_files_name(text):
    with pytest.raises(DockerfileError) as caught:
        read_ignore(text, file="x/.dockerignore")
    assert "x/.dockerignore" in str(caught.value)
