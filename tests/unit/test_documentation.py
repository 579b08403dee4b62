"""The pages: what they link to is there, and each command that they show is one that we have."""

import re
import shlex
from pathlib import Path

import click
import pytest

from firekiln.cli.command import cli

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
USERS = sorted([*DOCS.rglob("*.md"), *TOP.glob("*.md")])
PAGES = [*USERS, *(TOP / "guest").glob("*.md")]

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not here")

FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(firekiln [^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
AFTER = frozenset(";|&><()")


def name(page):
    return str(page.relative_to(TOP))


def targets(page):
    """The files that a page links to, with the anchor in each."""
    text = FENCE.sub("", page.read_text())
    for link in LINK.findall(text):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            yield ((page.parent / path).resolve() if path else page), anchor


def anchors(page):
    """The headings of a page, as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ +(.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_links_to_is_there(page):
    missing = [str(target) for target, _ in targets(page) if not target.exists()]
    assert missing == []
    wrong = [anchor for target, anchor in targets(page) if anchor and anchor not in anchors(target)]
    assert wrong == []


def test_the_index_names_every_page():
    named = {target for target, _ in targets(DOCS / "README.md")}
    pages = {page for page in DOCS.rglob("*.md") if page != DOCS / "README.md"}
    assert sorted(map(name, pages - named)) == [], "each page has a row in docs/README.md"


def commands(page):
    """The command lines of a page that begin with `firekiln`, one argv for each."""
    text = page.read_text()
    for language, block in FENCE.findall(text):
        if language in ("sh", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                yield from split(line)
    for mention in INLINE.findall(FENCE.sub("", text)):
        yield from (complete(words) for words in split(mention))


def complete(words):
    """A mention such as `firekiln build -o` names an option alone: give it a value, which a switch takes as a word."""
    return [*words, "value"] if words and words[-1].startswith("-") else words


def split(line):
    """The simple commands of a shell's line which are ours: `a; b | c` are three."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.commenters = "#"
    lexer.wordchars += "{}@%…,+"
    words = []
    for word in [*lexer, ";"]:
        if set(word) <= AFTER:
            if words[:1] == ["$"]:
                del words[0]
            while words and ("=" in words[0] or words[0] == "sudo"):
                del words[0]
            if words[:1] == ["firekiln"]:
                yield words[1:]
            words = []
        else:
            words.append(word)


@pytest.mark.parametrize("page", USERS, ids=name)
def test_each_command_that_a_page_shows_is_one_that_we_have(page):
    for words in commands(page):
        check(cli, words)


def check(command, words, parent=None):
    """Raise click's own error where `words` are no verbs and options of `command`. Values are not looked at."""
    context = click.Context(command, info_name=command.name, parent=parent, **command.context_settings)
    options, rest, _ = command.make_parser(context).parse_args(args=list(words))
    assert set(options) <= {option.name for option in command.params}
    if isinstance(command, click.Group) and rest:
        inner = command.get_command(context, rest[0])
        placeholder = rest[0].isupper() or not rest[0].isascii() or rest[0] == "value"
        assert inner or placeholder, f"there is no {rest[0]} in {' '.join(words)}"
        if inner:
            check(inner, rest[1:], context)


def test_commands_are_found_in_a_shells_line():
    line = "$ A=1 firekiln ps -q | xargs; firekiln run -e 'B=a b' web  # firekiln no"
    assert list(split(line)) == [["ps", "-q"], ["run", "-e", "B=a b", "web"]]


@pytest.mark.parametrize("words", [["runn"], ["run", "--nosuch"], ["container", "nosuch"], ["run", "--name"]])
def test_what_we_do_not_have_is_noticed(words):
    with pytest.raises((AssertionError, click.UsageError)):
        check(cli, words)
