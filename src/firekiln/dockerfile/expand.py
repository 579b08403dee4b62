"""Word expansion: BuildKit's shell lexer (`$v`, `${v:-x}`, quotes, escapes), from e2b-dockerfile-utils.

This is the one module that knows the package's lexer; what the rest of firekiln sees are the functions below.
All of them raise ValueError with BuildKit's reason; who calls knows the instruction and makes a DockerfileError of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from e2b_dockerfile_utils import ShellLex

_PATTERN = re.compile(r"\$\{(\w+)(?:#|%|/)([^}]*)")
_NAME = re.compile(r"\$\{?(\w+)")
_MAX_STEPS = 10**8


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """What a word became.

    `text` is it as one word (spaces kept), `words` as a command line's words (an unquoted value splits at spaces, an
    empty one vanishes). `used` are the variables that were set, `unset` those that were asked for but not set.
    """

    text: str
    words: tuple[str, ...]
    used: frozenset[str]
    unset: frozenset[str]


class _Recorder(Mapping[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.used: set[str] = set()
        self.unset: set[str] = set()

    def __getitem__(self, name: str) -> str:
        try:
            value = self._env[name]
        except KeyError:
            self.unset.add(name)
            raise
        self.used.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._env)

    def __len__(self) -> int:
        return len(self._env)


def expand(word: str, env: Mapping[str, str], *, escape: str = "\\") -> Expansion:
    """Expand variables, take quotes and escapes away; unset variables are empty. ValueError where that can't be."""
    return _process(word, env, escape=escape)


def expand_heredoc(data: str, env: Mapping[str, str], *, escape: str = "\\") -> Expansion:
    """Expand variables in a heredoc's content: quotes mean nothing there and stay."""
    return _process(data, env, escape=escape, skip_process_quotes=True)


def expand_display(line: str, env: Mapping[str, str], *, escape: str = "\\") -> str:
    """A command line as logs show it: known variables expanded, unset ones and quotes left as they are."""
    return ShellLex(escape, raw_quotes=True, env=env, skip_unset_env=True).process_word(line)


def split_words(line: str, *, escape: str = "\\", raw_quotes: bool = False, raw_escapes: bool = False) -> list[str]:
    """A line's words, quotes honoured, variables left as `$name`; raw quotes and escapes stay in the words."""
    lex = ShellLex(escape, raw_quotes=raw_quotes, raw_escapes=raw_escapes)
    return _no_empty(lex.process_words(line))


def _no_empty(words: list[str]) -> list[str]:
    """BuildKit's lexer never gives an empty word, not even for `''`; the package does."""
    return [word for word in words if word]


def _process(word: str, env: Mapping[str, str], *, escape: str, skip_process_quotes: bool = False) -> Expansion:
    _refuse_costly_patterns(word, env)
    recorder = _Recorder(env)
    lex = ShellLex(escape, skip_process_quotes=skip_process_quotes, env=recorder, skip_unset_env=False)
    text, words = lex._process(word)  # noqa: SLF001 - the public calls give text or words, never both at one cost
    return Expansion(
        text=text, words=tuple(_no_empty(words)), used=frozenset(recorder.used), unset=frozenset(recorder.unset)
    )


def _refuse_costly_patterns(word: str, env: Mapping[str, str]) -> None:
    """ValueError for `${v#*a*a*a*b}` on a long value: the package matches by backtracking, each `*` a factor."""
    for name, pattern in _PATTERN.findall(word):
        stars = pattern.count("*") + sum(env.get(inner, "").count("*") for inner in _NAME.findall(pattern))
        if stars > 1 and len(env.get(name, "")) ** stars > _MAX_STEPS:
            raise ValueError(f"the pattern for ${name} has too many wildcards for a value so long")
