"""Text to nodes: what one line, or several, mean to the parser."""

import contextlib
import time

import pytest

from firekiln.dockerfile.parser import MAX_INSTRUCTIONS, MAX_LINE, MAX_SIZE, parse_syntax
from firekiln.dockerfile.view import view_syntax
from firekiln.errors import DockerfileError


def nodes(text):
    return parse_syntax(text).nodes


def node(text):
    (only,) = nodes(text)
    return only


def refused(text):
    with pytest.raises(DockerfileError) as caught:
        parse_syntax(text)
    return caught.value


# --- lines ----------------------------------------------------------------------------------------------------------


def test_a_continued_instruction_spans_its_lines_and_keeps_inner_white_space():
    made = node("RUN one && \\\n    two \\  \n three\n")
    assert (made.original, made.start, made.end) == ("RUN one &&     two  three", 1, 3)


def test_comments_and_empty_lines_vanish_within_an_instruction_and_only_the_latter_are_warned_of():
    syntax = parse_syntax("RUN one \\\n  # why\n\n && two\nCMD x\n")
    assert [made.original for made in syntax.nodes] == ["RUN one  && two", "CMD x"]
    assert [(warning.line, "Empty continuation" in warning.message) for warning in syntax.warnings] == [(4, True)]


def test_an_escaped_escape_continues_nothing():
    assert [made.original for made in nodes("RUN a\\\\\nRUN b")] == ["RUN a\\\\", "RUN b"]


def test_a_file_may_end_within_an_instruction():
    assert node("RUN x \\").original == "RUN x "


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_an_instruction():
    made = nodes("\ufeffFROM a\r\nRUN b \\\r\n c\r\n")
    assert [item.original for item in made] == ["FROM a", "RUN b  c"]


def test_a_lone_carriage_return_parts_words_but_not_lines():
    assert node("FROM a\rAS\rb\n").args == ("a", "AS", "b")


def test_a_no_break_space_parts_no_words():
    assert node("RUN\u00a0x").keyword == "RUN\u00a0x"


def test_bytes_that_are_no_text_reach_the_words_and_show_as_replacement_characters():
    syntax = parse_syntax(b"RUN a\x00\xff\nENV A=\xc3(\n")
    assert syntax.nodes[0].args[0].encode(errors="surrogateescape") == b"a\x00\xff"
    view = view_syntax(syntax)
    assert [item["Args"] for item in view["instructions"]] == [["a\x00\ufffd"], ["A", "\ufffd(", "="]]


# --- directives and comments ----------------------------------------------------------------------------------------


def test_the_escape_directive_makes_the_backtick_continue_and_the_backslash_not():
    made = nodes("# escape=`\nRUN a `\n b\nRUN c \\\nRUN d\n")
    assert [item.original for item in made] == ["RUN a  b", "RUN c \\", "RUN d"]


@pytest.mark.parametrize("first", ["\n", "# comment\n", "#\n", "# unknown=1\n", "ARG x\n"])
def test_a_directive_counts_only_before_everything_else(first):
    assert parse_syntax(f"{first}# escape=`\nRUN a\n").escape == "\\"


def test_directives_are_read_in_any_case_and_spacing():
    syntax = parse_syntax("#  SYNTAX =docker/dockerfile:1  \n#check=skip=all\n# Escape = `\nFROM a\n")
    values = {name: found.value for name, found in syntax.directives.items()}
    assert values == {"syntax": "docker/dockerfile:1", "check": "skip=all", "escape": "`"}


def test_check_and_syntax_are_found_behind_a_hash_bang_line_too():
    syntax = parse_syntax("#!/usr/bin/env builder\n# syntax=a\nFROM b\n")
    assert syntax.directives["syntax"].value == "a"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("# escape=x\nFROM a\n", 1, "invalid escape token"),
        ("# escape=`\n# escape=`\nFROM a\n", 2, "only one escape"),
        ("# check=skip=all\n# CHECK=skip=all\nFROM a\n", 2, "only one check"),
    ],
)
def test_a_bad_directive_is_refused_on_its_own_line(text, line, reason):
    error = refused(text)
    assert (error.location.start, reason in error.message) == (line, True)


def test_comments_belong_to_the_next_instruction_until_an_empty_comment_parts_them():
    made = nodes("# one\n\n# two\nFROM a\n# three\n#\n# four\nRUN b\nRUN c\n")
    assert [item.comments for item in made] == [("one", "two"), ("four",), None]


# --- flags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "flags", "args"),
    [
        ("COPY --a --b=c d e", ("--a", "--b=c"), ("d", "e")),
        ("COPY --a='b c' d", ("--a=b c",), ("d",)),
        ('COPY --a="b\\"c" d', ('--a=b"c',), ("d",)),
        ("COPY --a=b\\ c d", ("--a=b c",), ("d",)),
        ("COPY --a='b\\'c' d", ("--a=b'c",), ("d",)),
        ("COPY -- --a d", (), ("--a", "d")),
        ("COPY a --b", (), ("a", "--b")),
        ("COPY - -a", (), ("-", "-a")),
        ("COPY --a=b\\", ("--a=b",), ()),
        ("COPY --a='b c", ("--a=b c",), ()),
        ("COPY --ä b", ("--Ã¤",), ("b",)),  # BuildKit goes byte by byte
        ("COPY", None, ()),
    ],
)
def test_flags_are_unquoted_and_stand_first(line, flags, args):
    made = node(line)
    assert (made.flags, made.args) == (flags, args)


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "args"),
    [
        ('ENV a=1 b=\'x y\' c="p\\"q" d=e\\ f g=', 'a|1|=|b|\'x y\'|=|c|"p\\"q"|=|d|e\\ f|=|g||='),
        ("ENV a  b   c ", "a|b   c|"),
        ("ENV a=b\\", "a|b|="),
        ("ENV a='b", "a|'b|="),
        ('ENV a="b\\', 'a|"b|='),
        ("LABEL 'a b'=c", "'a b'|c|="),
        ("ARG a b=c 'd e'", "a|b=c|'d e'"),
        ("EXPOSE 80  443/tcp", "80|443/tcp"),
        ("COPY 'a b' c", "'a|b'|c"),
        ("USER  a b ", "a b"),
        ("MAINTAINER a <b>", "a <b>"),
        ("HEALTHCHECK --interval=1s CMD a  b", "CMD|a  b"),
        ("FOO a b", ""),
    ],
)
def test_words_are_split_as_the_instruction_wants_it(line, args):
    assert node(line).args == tuple(args.split("|"))


@pytest.mark.parametrize("line", ["ENV a", "ENV a=b c", "LABEL a"])
def test_a_name_without_value_is_refused_where_both_are_needed(line):
    assert refused(f"FROM a\n{line}").location.start == 2


# --- JSON -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('["a", "b c"]', ("a", "b c")),
        ("[]", ()),
        ('  [ "\\u00e9\\ud83d\\ude00" ]  ', ("é😀",)),
        ('["\\ud800"]', ("\ufffd",)),
    ],
)
def test_a_json_array_of_strings_is_the_exec_form(text, words):
    made = node(f"CMD {text}")
    assert (made.json, made.args) == (True, words)


@pytest.mark.parametrize(
    "text",
    ["['a']", '["a",]', '["a"] b', "[ -f /x ]", '["a\tb"]', '["C:\\windows"]', "[NaN]", "[1e999]", "[", '[\u00a0"a"]'],
)
def test_what_is_no_json_is_the_shell_form(text):
    made = node(f"CMD {text}")
    assert (made.json, made.args) == (False, (text,))


@pytest.mark.parametrize("text", ['["a", 1]', "[null]", '[["a"]]', '[{"a": "b"}]', "[" * 5000 + "]" * 5000])
def test_a_json_array_of_anything_else_is_refused(text):
    assert "strings only" in refused(f"FROM a\nCMD {text}").message


# --- heredocs -------------------------------------------------------------------------------------------------------


def heredocs(text):
    return [(item.name, item.content, item.fd, item.expand, item.chomp) for item in node(text).heredocs]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN <<E\na\n\n # b\nE\n", ("E", "a\n\n # b\n", 0, True, False)),
        ("RUN <<-E\n\ta\n\tE\n", ("E", "\ta\n", 0, True, True)),
        ("RUN <<'E'\n$a\nE\n", ("E", "$a\n", 0, False, False)),
        ('RUN <<E"O"F\nEOF\n', ("EOF", "", 0, False, False)),
        ("RUN << E cat\nE\n", ("E", "", 0, True, False)),
        ("RUN 3<<E cat\nE\n", ("E", "", 3, True, False)),
        ("RUN 99999999999999999999999<<E cat\nE\n", ("E", "", 2**64 - 1, True, False)),
        ("COPY --chown=1 <<E /f\r\na\r\nE\r\n", ("E", "a\r\n", 0, True, False)),
        ("ADD <<E /f\nE", ("E", "", 0, True, False)),
        ("ONBUILD RUN <<E\na\nE\n", ("E", "a\n", 0, True, False)),
        ("RUN <<E \\\n  && true\na \\\nE\n", ("E", "a \\\n", 0, True, False)),
    ],
)
def test_a_heredoc_reaches_to_the_line_with_its_name(text, expected):
    assert heredocs(text) == [expected]


def test_several_heredocs_follow_each_other():
    made = node("COPY <<A <<B /d\n1\nA\n2\nB\n")
    assert [(item.name, item.content) for item in made.heredocs] == [("A", "1\n"), ("B", "2\n")]
    assert (made.start, made.end, made.args) == (1, 5, ("<<A", "<<B", "/d"))


@pytest.mark.parametrize(
    "line", ["RUN cat <<<x", "RUN echo '<<E'", 'RUN ["cat <<E"]', "ENV a=<<E", 'RUN echo "<<E', "RUN a<<E", "RUN <<''"]
)
def test_what_only_looks_like_a_heredoc_opens_none(line):
    assert nodes(f"{line}\nCMD x\n")[0].heredocs == ()


def test_an_unterminated_heredoc_is_refused_where_it_opens_with_a_hint():
    error = refused("FROM a\nRUN <<E\nx\n E\n")
    assert (error.message, error.location.start, error.location.end) == ("unterminated heredoc", 2, 4)
    assert "'E'" in error.hint


# --- ONBUILD --------------------------------------------------------------------------------------------------------


def test_a_trigger_is_a_node_of_its_own():
    made = node('ONBUILD COPY --from=x ["a", "b"]')
    assert (made.args, made.flags) == ((), ())
    assert (made.sub.keyword, made.sub.flags, made.sub.args, made.sub.json) == ("COPY", ("--from=x",), ("a", "b"), True)


# --- hostile and empty ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "\ufeff", b""])
def test_a_file_without_instructions_is_refused(text):
    assert refused(text).message == "file with no instructions"


def test_a_line_may_have_65535_bytes_and_no_more():
    parse_syntax("RUN " + "x" * (MAX_LINE - 4) + "\n")
    assert refused("FROM a\nRUN " + "x" * (MAX_LINE - 3)).location.start == 2
    assert refused("FROM a\nRUN " + "é" * (MAX_LINE // 2)).location.start == 2


@pytest.mark.parametrize(
    "text",
    [
        b"FROM a\n" * (100 * 2**20 // 7),
        "x" * (MAX_SIZE + 1),
        "RUN x\n" * (MAX_INSTRUCTIONS + 1),
        "RUN " + "x \\\n" * 2**20,
        "RUN <<E " + "'\\\n" * 2**19,
        "ENV " + "a='\\'\"\\\n" * 2**18,
        "\n" * (MAX_SIZE - 1),
        ("RUN <<E " + "x " * 30000 + "\nE\n") * 100,
        ("RUN " + "x" * 60000 + " \\\n") * 250,
        "ONBUILD " * 8000,
        "ONBUILD \\\n" * 2**18,
        "#" + " " * 60000 + "=\n" + "RUN --\\\n" + "--a='\\\n" * 2**17,
        "CMD " + "[" * 60000,
        "# escape=" + " " * 60000 + "x\nRUN x",
        "RUN <<E\n" + "x\n" * 2**20,
        "ARG " + "${" * 30000,
        "RUN <<" + "${" * 30000 + "\n",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_hostile_input_ends_within_a_second_or_two(text):
    started = time.process_time()
    with contextlib.suppress(DockerfileError):
        parse_syntax(text)
    assert time.process_time() - started < 2
