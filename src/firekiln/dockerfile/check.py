"""The `# check=` directive: `skip=A,B;error=true;experimental=all`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from firekiln.dockerfile.rules import CheckWarning, Rule
from firekiln.values import dataclass

_BOOL = re.compile(r"(1|t|T|TRUE|true|True)|0|f|F|FALSE|false|False")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """Which checks speak, and whether one that does fails the build. Names of rules that don't exist mean nothing."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False
    error: bool = False

    def speaks(self, warning: CheckWarning) -> bool:
        """Whether the warning is to be shown. `skip` is for ordinary rules, `experimental` for the others."""
        rule = warning.rule
        if rule.experimental:
            return self.experimental_all or rule.name in self.experimental
        return not self.skip_all and rule.name not in self.skip

    def asking(self, rule: Rule) -> CheckOptions:
        """The same, but the experimental `rule` speaks too, unless it is told not to, and no warning is an error."""
        wanted = frozenset() if self.skip_all or rule.name in self.skip else frozenset({rule.name})
        return replace(self, error=False, experimental=self.experimental | wanted)

    def select(self, warnings: Iterable[CheckWarning]) -> tuple[CheckWarning, ...]:
        return tuple(warning for warning in warnings if self.speaks(warning))


def parse_check(value: str) -> CheckOptions:
    """The options in a directive's value. ValueError with the reason where it is malformed."""
    options = CheckOptions()
    if not value.strip():
        return options
    found: dict[str, str] = {}
    for part in value.split(";", 2):
        key, separator, text = part.partition("=")
        if not separator or key.strip() not in ("skip", "experimental", "error"):
            raise ValueError(f'invalid check option "{key.strip() if separator else part}"')
        found[key.strip()] = text.strip()
    skip, experimental, error = found.get("skip", ""), found.get("experimental", ""), found.get("error", "false")
    match = _BOOL.fullmatch(error)
    if match is None:
        raise ValueError(f'invalid value "{error}" of check option "error"')
    return CheckOptions(
        skip=_names(skip),
        skip_all=skip == "all",
        experimental=_names(experimental),
        experimental_all=experimental == "all",
        error=match[1] is not None,
    )


def in_order(warnings: Iterable[CheckWarning]) -> tuple[CheckWarning, ...]:
    """Sorted by line, those of one line by their rules' names."""
    return tuple(sorted(warnings, key=lambda warning: (warning.location.start, warning.rule.name)))


def violation(warnings: Sequence[CheckWarning]) -> str:
    """The message with which `error=true` ends a build."""
    return f"lint violation found for rules: {', '.join(sorted({warning.rule.name for warning in warnings}))}"


def _names(text: str) -> frozenset[str]:
    return frozenset(name for part in text.split(",") if (name := part.strip()))
