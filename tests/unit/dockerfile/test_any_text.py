"""Whatever the text, it parses or is refused; what parses can be printed, and means the same afterwards."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from firekiln.dockerfile.convert import convert_syntax
from firekiln.dockerfile.excerpt import excerpt
from firekiln.dockerfile.lint import lint
from firekiln.dockerfile.parser import parse_syntax
from firekiln.dockerfile.printing import print_syntax
from firekiln.dockerfile.view import view_syntax
from firekiln.errors import DockerfileError

PIECES = st.sampled_from(
    [
        *"FROM RUN COPY ENV LABEL CMD ONBUILD HEALTHCHECK ARG SHELL VOLUME".split(),
        *'--a --from=x --mount=type=cache,target=/c -- [ ] ["a"] {} , 1 null $a ${a:-b} ${ a=b ='.split(),
        *"<<E <<-E <<'E' 3<<E E # #escape=` #check=skip=all #!sh ' \" ` \\ \\\\ \ufeff é \x00 \udcff".split(" "),
        *("\n", "\n", "\r\n", "\r", " ", "\t", "\\\n", "`\n", "# c\n", "\u00a0", "\u2028", "\v", "\x1c", "\x85"),
    ]
)
TEXTS = st.one_of(
    st.text(),
    st.lists(PIECES, max_size=40).map("".join),
    st.lists(PIECES, max_size=40).map(" ".join),
    st.lists(PIECES, max_size=40).map("FROM a\nRUN ".__add__("").join),
)


def parsed(text):
    """The syntax, None where the text is refused."""
    try:
        return parse_syntax(text)
    except DockerfileError:
        return None


def meaning(syntax):
    return syntax.escape, [replace(node, start=0, end=0, comments=node.comments or ()) for node in syntax.nodes]


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_any_text_parses_or_is_refused_and_so_do_its_bytes(text):
    syntax = parsed(text)
    again = parsed(text.encode(errors="surrogateescape"))
    assert (syntax is None) == (again is None)
    if syntax is None:
        return
    assert syntax.nodes == again.nodes
    view_syntax(syntax)
    try:
        dockerfile = convert_syntax(syntax)
    except DockerfileError as error:
        if error.location is not None:
            excerpt(syntax.source, error.location, span=error.span)
        return
    lint(syntax, dockerfile)


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_printing_and_parsing_again_is_stable(text):
    syntax = parsed(text)
    if syntax is not None:
        printed = print_syntax(syntax)
        again = parse_syntax(printed)
        assert meaning(again) == meaning(syntax)
        assert print_syntax(again) == printed


@given(st.binary())
def test_any_bytes_parse_or_are_refused(data):
    syntax = parsed(data)
    if syntax is not None:
        view_syntax(syntax)


def test_a_joined_line_beyond_the_limit_is_broken_again_when_printed():
    syntax = parse_syntax("RUN " + "word \\\n" * 30_000 + "end\n")
    assert meaning(parse_syntax(print_syntax(syntax))) == meaning(syntax)
