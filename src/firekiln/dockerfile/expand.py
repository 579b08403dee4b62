"""Word expansion: BuildKit's shell lexer (`$v`, `${v:-x}`, quotes, escapes), from e2b-dockerfile-utils.

This is the one module that knows the package's lexer; what the rest of firekiln sees are the functions below.
All of them raise ValueError with BuildKit's reason; who calls knows the instruction and makes a DockerfileError of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from e2b_dockerfile_utils import ShellLex

from firekiln.values import dataclass

_PATTERN = re.compile(r"\$\{(\w+)(?:#|%|/)([^}]*)")
_NAME = re.compile(r"\$\{?(\w+)")
_MAX_STEPS = 10**8

MAX_SUBSTITUTED = 2**19
"""Characters of variables' values in one expansion: the lexer goes one by one. Linux takes 128 KiB for one variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """What a word became.

    `text` is it as one word (spaces kept), `words` as a command line's words (an unquoted value splits at spaces, an
    empty one vanishes). `used` are the variables that were set, `unset` those that were asked for but not set.
    `substituted` is how many characters of values went in.
    """

    text: str
    words: tuple[str, ...]
    used: frozenset[str]
    unset: frozenset[str]
    substituted: int = 0


class _Recorder(Mapping[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, env: Mapping[str, str], limit: int) -> None:
        self._env, self._limit = env, limit
        self.used: set[str] = set()
        self.unset: set[str] = set()
        self.substituted = 0

    def __getitem__(self, name: str) -> str:
        try:
            value = self._env[name]
        except KeyError:
            self.unset.add(name)
            raise
        self.used.add(name)
        self.substituted += len(value)
        if self.substituted > self._limit:
            raise ValueError(f"variables' values of more than {self._limit} characters")
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


def expand_display(line: str, env: Mapping[str, str], *, escape: str = "\\", limit: int, quotes: bool) -> Expansion:
    """A line as logs show it: with `quotes`, quotes and unset variables stay as they are.

    ValueError where the values come to more than `limit` characters, and as `expand`.
    """
    return _process(line, env, escape=escape, limit=limit, raw_quotes=quotes, skip_unset_env=quotes)


def split_words(line: str, *, escape: str = "\\", raw_quotes: bool = False, raw_escapes: bool = False) -> list[str]:
    """A line's words, quotes honoured, variables left as `$name`; raw quotes and escapes stay in the words."""
    lex = ShellLex(escape, raw_quotes=raw_quotes, raw_escapes=raw_escapes)
    return _no_empty(lex.process_words(line))


def _no_empty(words: list[str]) -> list[str]:
    """BuildKit's lexer never gives an empty word, not even for `''`; the package does."""
    return [word for word in words if word]


def _process(
    word: str, env: Mapping[str, str], *, escape: str, limit: int = MAX_SUBSTITUTED, **options: bool
) -> Expansion:
    _refuse_costly_patterns(word, env)
    recorder = _Recorder(env, limit)
    lex = ShellLex(escape, env=recorder, **({"skip_unset_env": False} | options))
    text, words = lex._process(word)  # noqa: SLF001 - the public calls give text or words, never both at one cost
    return Expansion(
        text=text,
        words=tuple(_no_empty(words)),
        used=frozenset(recorder.used),
        unset=frozenset(recorder.unset),
        substituted=recorder.substituted,
    )


def _refuse_costly_patterns(word: str, env: Mapping[str, str]) -> None:
    """ValueError for `${v#*a*a*a*b}` on a long value: the package matches by backtracking, each `*` a factor; and for
    `${v//a/$v}`, where each match may become as much as stands behind it.
    """
    for match in _PATTERN.finditer(word):
        name, pattern = match.groups()
        if pattern.startswith("/"):
            rest = word[match.start() :]
            grown = len(rest) + rest.count("$") * max(map(len, env.values()), default=0)
            if len(env.get(name, "")) * grown > MAX_SUBSTITUTED:
                raise ValueError(f"replacing all matches in ${name} may come to more than {MAX_SUBSTITUTED} characters")
        stars = pattern.count("*") + sum(env.get(inner, "").count("*") for inner in _NAME.findall(pattern))
        if stars > 1 and len(env.get(name, "")) ** stars > _MAX_STEPS:
            raise ValueError(f"the pattern for ${name} has too many wildcards for a value so long")
