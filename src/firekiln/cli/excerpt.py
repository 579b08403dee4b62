"""What is shown of an error besides its message: the place in the Dockerfile, a failed step's last output."""

from __future__ import annotations

from firekiln.cli.progress import shown
from firekiln.dockerfile.excerpt import excerpt
from firekiln.errors import BuildError, DockerfileError, FirekilnError, ImageNotFoundError, StepFailedError

_TAIL = 20
"""Lines of a failed step's output."""


def details(error: FirekilnError) -> str:
    """Lines to print under the error's message; "" where there is nothing to show."""
    parts: list[str] = []
    if isinstance(error, StepFailedError) and error.output:
        lines = [shown(line) for line in error.output.splitlines()[-_TAIL:]]
        parts.append("\n".join(["------", " > last output of the step:", *(f"   {line}" for line in lines), "------"]))
    if isinstance(error, DockerfileError | BuildError | ImageNotFoundError) and error.location and error.source:
        span = error.span if isinstance(error, DockerfileError) else None
        parts.append(excerpt(error.source, error.location, span=span).rstrip("\n"))
    return "\n".join(filter(None, parts))
