"""What `--chmod` means: an octal number, or chmod(1)'s symbolic language in BSD's reading, as BuildKit's parser has it.

No umask: BuildKit's daemon clears its own, so that a clause without `u`, `g`, `o` or `a` is about everybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from firekiln.errors import BuildError
from firekiln.values import dataclass

_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o0007, "a": 0o6777}
_PERMISSIONS = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000}
_COPIES = {"u": 6, "g": 3, "o": 0}
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXstugo]*)+)")
_ACTION = re.compile(r"([-+=])([rwxXstugo]*)")

ModeChange: TypeAlias = Callable[[int, bool], int]
"""Permission bits (07777) before, and whether it is a directory, to permission bits after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Action:
    """One `+x` of a clause: `who` are the bits that it may touch."""

    who: int
    operator: str
    permissions: str

    def apply(self, mode: int, original: int, *, directory: bool) -> int:
        bits = self._bits(mode, original, directory=directory)
        if self.operator == "-":
            return mode & ~bits
        return (mode & ~self.who if self.operator == "=" else mode) | bits

    def _bits(self, mode: int, original: int, *, directory: bool) -> int:
        bits = sticky = 0
        for letter in self.permissions:
            if letter in _COPIES:
                bits |= 0o111 * (mode >> _COPIES[letter] & 7)
            elif letter == "X":
                bits |= 0o111 if directory or original & 0o111 else 0
            elif letter == "t":
                sticky = 0o1000 if self.who != _WHO["o"] else 0
            else:
                bits |= _PERMISSIONS[letter]
        return bits & self.who | sticky


def parse(expression: int | str) -> ModeChange:
    """BuildError where `expression` is neither an octal number up to 7777 nor symbolic."""
    if isinstance(expression, str) and re.fullmatch(r"[0-7]{1,5}", expression):
        expression = int(expression, 8)
    if isinstance(expression, int):
        if not 0 <= expression <= 0o7777:
            raise BuildError(f"invalid chmod parameter: {expression:o} is beyond 7777")
        number = expression
        return lambda _mode, _directory: number
    actions = _actions(expression)

    def change(mode: int, directory: bool) -> int:
        result = mode
        for action in actions:
            result = action.apply(result, mode, directory=directory)
        return result

    return change


def _actions(expression: str) -> tuple[_Action, ...]:
    actions = []
    for clause in expression.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise BuildError(
                f'invalid chmod parameter: "{expression}"',
                hint="give an octal number (0644) or a symbolic expression (u=rwX,go=rX)",
            )
        who = 0
        for letter in match[1] or "a":
            who |= _WHO[letter]
        actions += [_Action(who=who, operator=op, permissions=letters) for op, letters in _ACTION.findall(match[2])]
    return tuple(actions)
