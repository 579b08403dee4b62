"""One row of the conformance suite: a small Dockerfile, and what has to become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BASE = """\
FROM scratch AS busybox
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /etc /root /www && chown 33:34 /www \\
 && printf 'root:x:0:0::/root:/bin/sh\\nweb:x:33:34::/www:/bin/sh\\n' > /etc/passwd \\
 && printf 'root:x:0:\\nweb:x:34:\\nlog:x:40:web\\nops:x:50:\\n' > /etc/group
"""
"""What texts begin with: the stage `busybox`, with the user web (33), its group (34) and log (40)."""

PARENT = "conformance-parent"
"""The name of the image that a case's `parent` is built into before."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was seen: the standard output and the exit status of the process, what its health had become; or that the
    build was `refused`.
    """

    says: str = ""
    status: int = 0
    health: str = ""
    refused: bool = False


@dataclass(frozen=True, kw_only=True)
class Case:
    """`text` follows `base`. `says` is the standard output of the machine, `status` its exit status.

    The build has the options `build`, and the further `files` in its context; `dockerfile` names the text's own file
    there, where that matters. In these, and in the text, `@CONTEXT@`, `@HTTP@`, `@GIT@` and `@AGENT@` stand for the
    context's folder, a web server of it, a git repository and the socket of an ssh agent. `refused` is a pattern in
    the message of a build that has to fail.

    The machine has the `options` and `args` of `run`. `stop`: once it says "ready", it is stopped, with so many
    seconds to end. `config` are keys of the machine's Config, `image` those of the image, as `inspect` shows them.
    `health` is what the health has become once it is known, or after `checks` checks. `boots`: whether there is a
    machine at all.

    `docker` is what Docker does where that is something else, `note` says so in words. `since` is the minor version of
    `docker/dockerfile` 1 that the form needs: older engines are not asked, or do what `docker` says. `recorded`: that
    BuildKit's frontend 1.26 does the same is known from its answers, which tests/golden and tests/root compare with.
    `unasked` says why Docker is never asked.
    """

    instruction: str
    form: str
    text: str
    base: str = BASE
    parent: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    dockerfile: str = ""
    build: tuple[str, ...] = ()
    refused: str = ""
    options: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    says: str = ""
    status: int = 0
    stop: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    image: Mapping[str, Any] = field(default_factory=dict)
    health: str = ""
    checks: int = 0
    boots: bool = True
    docker: Told | None = None
    note: str = ""
    since: int = 0
    recorded: bool = False
    unasked: str = ""
    often: bool = False

    @property
    def in_every_run(self) -> bool:
        """Whether `scripts/test` tries it without `--all`: what boots takes seconds."""
        return self.often or not self.boots or bool(self.refused)

    @property
    def told(self) -> Told:
        """What the machine has to tell."""
        return Told(refused=True) if self.refused else Told(says=self.says, status=self.status, health=self.health)


def numbered(cases: tuple[Case, ...]) -> dict[str, Case]:
    """The cases by names for tests: the instruction and a number. Those of one instruction come together."""
    counts: dict[str, int] = {}
    named = {}
    for case in cases:
        word = case.instruction.strip("# .").replace(".", "-").replace(" ", "-")
        counts[word] = counts.get(word, 0) + 1
        named[f"{word}-{counts[word]:02}"] = case
    return named
