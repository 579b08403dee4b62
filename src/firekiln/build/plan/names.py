"""What vertices are called in logs, as BuildKit calls them: `[builder 2/5] RUN make`."""

from __future__ import annotations

from collections.abc import Mapping

from firekiln.build.plan.state import StageState
from firekiln.dockerfile.expand import expand, expand_display

CONTEXT = "[internal] load build context"


def numbered(state: StageState, text: str, *, on_build: bool = False) -> str:
    """`text` under the stage's name and the step's number, which goes up by one."""
    if not state.steps:
        return text
    state.step += 1
    stage = f"{state.name} " if state.name else ""
    return f"[{stage}{state.step:{len(str(state.steps))}d}/{state.steps}] {'ONBUILD ' if on_build else ''}{text}"


def file_step(original: str, env: Mapping[str, str], escape: str) -> str:
    """COPY, ADD and WORKDIR are shown with their variables' values."""
    return _shown(original, env, escape, display=False)


def run_step(original: str, env: Mapping[str, str], escape: str) -> str:
    """RUN is shown with those of its variables that the build knows; the shell's own stay, and so do quotes."""
    return _shown(original, env, escape, display=True)


def heredoc_summary(content: str) -> str:
    """The first line of a heredoc, and `...` if there are more."""
    first, *more = content.strip().splitlines() or [""]
    return first + ("..." if more else "")


def _shown(original: str, env: Mapping[str, str], escape: str, *, display: bool) -> str:
    try:
        text = expand_display(original, env, escape=escape) if display else expand(original, env, escape=escape).text
    except ValueError:
        text = original
    word, space, rest = text.partition(" ")
    return f"{word.upper()}{space}{rest}"
