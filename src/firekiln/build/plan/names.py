"""What vertices are called in logs, as BuildKit calls them: `[builder 2/5] RUN make`."""

from __future__ import annotations

from collections.abc import Mapping

from firekiln.build.plan.state import MAX_WORK, SPECIAL, Planning, StageState
from firekiln.dockerfile.expand import expand_display

CONTEXT = "[internal] load build context"


def numbered(state: StageState, text: str, *, on_build: bool = False) -> str:
    """`text` under the stage's name and the step's number, which goes up by one."""
    if not state.steps:
        return text
    state.step += 1
    stage = f"{state.name} " if state.name else ""
    return f"[{stage}{state.step:{len(str(state.steps))}d}/{state.steps}] {'ONBUILD ' if on_build else ''}{text}"


def file_step(planning: Planning, original: str, env: Mapping[str, str]) -> str:
    """COPY, ADD and WORKDIR are shown with their variables' values."""
    return _shown(planning, original, env, quotes=False)


def run_step(planning: Planning, original: str, env: Mapping[str, str]) -> str:
    """RUN is shown with those of its variables that the build knows; the shell's own stay, and so do quotes."""
    return _shown(planning, original, env, quotes=True)


def heredoc_summary(content: str) -> str:
    """The first line of a heredoc, and `...` if there are more."""
    first, *more = content.strip().splitlines() or [""]
    return first + ("..." if more else "")


def _shown(planning: Planning, original: str, env: Mapping[str, str], *, quotes: bool) -> str:
    """A name is not worth an error, nor more than half of what a plan may cost: then it shows the text as it is."""
    text = original
    limit = MAX_WORK // 2 - planning.work
    if limit > 0 and SPECIAL.search(original):
        try:
            made = expand_display(original, env, escape=planning.dockerfile.escape, limit=limit, quotes=quotes)
            planning.work += made.substituted
            text = made.text
        except ValueError:
            planning.work += min(limit, sum(map(len, env.values())) * original.count("$"))
    word, space, rest = text.partition(" ")
    return f"{word.upper()}{space}{rest}"
