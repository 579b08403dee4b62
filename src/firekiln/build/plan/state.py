"""What the plan knows while it is being made: of the whole file (`Planning`), and of each stage (`StageState`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import field, replace

from firekiln.build.graph import HistoryStep, Op, Vertex
from firekiln.build.plan.options import BaseConfigs, PlanOptions
from firekiln.build.plan.platformargs import NO_ENVIRONMENT
from firekiln.dockerfile import rules
from firekiln.dockerfile.expand import Expansion, expand, expand_heredoc
from firekiln.dockerfile.instructions import Dockerfile, Instruction, Stage
from firekiln.dockerfile.rules import CheckWarning
from firekiln.dockerfile.suggestions import did_you_mean
from firekiln.errors import DockerfileError, Location
from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform
from firekiln.values import dataclass

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
SCRATCH = "scratch"

MAX_WORK = 2**19
"""See `Planning.spend`. Real Dockerfiles stay under a hundredth of it."""

_MAX_QUOTED = 400
_MAX_SUGGESTIONS = 50
SPECIAL = re.compile(r"[$'\"\\`<]")


@dataclass(slots=True, kw_only=True, eq=False)
class StageState:
    """A stage, or an image that COPY --from or a mount names (`stage` is None), on its way to a snapshot and a config.

    `base_name` is FROM's word, expanded. `name` is what logs call it, "" in a file of one stage. `needs` are the
    stages that its instructions copy or mount from, and where. `resolved` says that the base is known, `planned` that
    all below `vertex` is final.
    """

    base_name: str
    location: Location
    stage: Stage | None = None
    name: str = ""
    base: StageState | None = None
    named_context: str | None = None
    platform: Platform | None = None
    ignore_cache: bool = False
    commands: list[Command] = field(default_factory=list)
    needs: dict[StageState, Location] = field(default_factory=dict)
    triggers_taken: bool = False
    resolved: bool = False
    planned: bool = False
    steps: int = 0
    step: int = 0
    vertex: Vertex | None = None
    env: dict[str, str] = field(default_factory=dict)
    config: ImageConfig = field(default_factory=ImageConfig)
    image: Image | None = None
    author: str = ""
    history: list[HistoryStep] = field(default_factory=list)
    args: list[tuple[str, str | None]] = field(default_factory=list)
    workdir_set: bool = False
    seen: dict[str, Location] = field(default_factory=dict)

    @property
    def working_dir(self) -> str:
        return self.config.working_dir or "/"

    def inherit(self) -> None:
        """Begin as the base stage ended. Its triggers are instructions of this stage now, and go no further."""
        if self.base is None:
            return
        self.vertex, self.platform, self.image = self.base.vertex, self.base.platform, self.base.image
        self.env, self.author = dict(self.base.env), self.base.author
        self.config = replace(self.base.config, on_build=())
        self.history, self.args = list(self.base.history), list(self.base.args)
        self.workdir_set = self.base.workdir_set

    def set_step_env(self, name: str, value: str) -> None:
        """ARG: a variable of later steps. One of the same name goes, so that the last one set stands last."""
        self.env.pop(name, None)
        self.env[name] = value

    def set_env(self, name: str, value: str) -> None:
        """ENV: for later steps, and for the image, there in the place of an earlier variable of the name."""
        lines = list(self.config.env)
        # What the image has, its steps have: only a name that is known can be in the image already.
        known = range(len(lines)) if name in self.env else ()
        place = next((index for index in known if lines[index].partition("=")[0] == name), len(lines))
        lines[place:] = [f"{name}={value}", *lines[place + 1 :]]
        self.set_step_env(name, value)
        self.config = replace(self.config, env=tuple(lines))

    def commit(self, created_by: str, vertex: Vertex | None = None) -> None:
        """Add a line to the image's history; `vertex` is what makes its layer, None where no file changes."""
        self.history.append(HistoryStep(created_by=created_by, vertex=vertex))

    def shell(self, line: str) -> tuple[str, ...]:
        """The argv of a shell form's command."""
        return (*(self.config.shell or DEFAULT_SHELL), line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """An instruction of a stage with the stages that it reads: one for COPY --from, one (or None) a mount for RUN."""

    instruction: Instruction
    sources: tuple[StageState | None, ...] = ()
    on_build: bool = False


@dataclass(slots=True, kw_only=True)
class Planning:
    """What all stages share. Vertices are made here, so that equal ones are one.

    `args` is the global scope: predefined arguments and those above the first FROM. `build_args` are the command
    line's. `declared` are the names of all ARGs met so far. `warnings` has each once, in the order of their coming;
    `notices` are warnings that no build check gives.
    """

    dockerfile: Dockerfile
    options: PlanOptions
    base_configs: BaseConfigs
    platform: Platform
    args: dict[str, str]
    build_args: dict[str, str]
    declared: set[str] = field(default_factory=set)
    epoch: int | None = None
    proxy_env: tuple[str, ...] = ()
    work: int = 0
    warnings: dict[CheckWarning, None] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    vertices: dict[tuple[Op, tuple[Vertex | None, ...], bool], Vertex] = field(default_factory=dict)

    def vertex(
        self,
        op: Op,
        inputs: tuple[Vertex | None, ...] = (),
        *,
        name: str,
        stage: str = "",
        location: Location | None = None,
        ignore_cache: bool = False,
    ) -> Vertex:
        """The vertex that does `op` to `inputs`; the first one's name stays where several stages ask for the same."""
        key = (op, inputs, ignore_cache)
        known = self.vertices.get(key)
        if known is None:
            known = self.vertices[key] = Vertex(
                op=op, inputs=inputs, name=name, stage=stage, location=location, ignore_cache=ignore_cache
            )
        return known

    def error(
        self, message: str, location: Location | None, *, span: str | None = None, hint: str | None = None
    ) -> DockerfileError:
        return DockerfileError(message, location=location, source=self.dockerfile.source, span=span, hint=hint)

    def spend(self, work: int, location: Location | None) -> None:
        """Count what grows faster than a Dockerfile does: a unit is about a third of a microsecond, and ten bytes.

        DockerfileError beyond MAX_WORK: doubling variables, thousands of steps with thousands of variables each.
        """
        self.work += work
        if self.work > MAX_WORK:
            raise self.error(
                "the plan grows out of all proportion: too many variables, with values too long, are used too often",
                location,
            )

    def warn(self, warning: CheckWarning) -> None:
        self.warnings[warning] = None

    def expansion(self, word: str, env: Mapping[str, str], location: Location) -> Expansion:
        """`word` expanded with `env`. DockerfileError where its quotes or braces are wrong."""
        if not SPECIAL.search(word):
            return Expansion(text=word, words=tuple(word.split()), used=frozenset(), unset=frozenset())
        made = self._made(lambda: expand(word, env, escape=self.dockerfile.escape), word, location)
        self.spend(made.substituted, location)
        return made

    def word(self, state: StageState, text: str, location: Location) -> str:
        """A word of an instruction, expanded with the stage's variables; what is unset is warned of."""
        made = self.expansion(text, state.env, location)
        self._report_unset(state, text, made, location)
        return made.text

    def words(self, state: StageState, text: str, location: Location) -> tuple[str, ...]:
        """As `word`, for where an unquoted variable may become several words or none."""
        made = self.expansion(text, state.env, location)
        self._report_unset(state, text, made, location)
        return made.words

    def heredoc(self, state: StageState, data: str, location: Location) -> str:
        """A heredoc's content, variables expanded, quotes left alone."""
        # As in BuildKit the escape is a backslash here, whatever the file's own is.
        made = self._made(lambda: expand_heredoc(data, state.env), data, location)
        self.spend(made.substituted, location)
        self._report_unset(state, data, made, location)
        return made.text

    def _made(self, make: Callable[[], Expansion], word: str, location: Location) -> Expansion:
        try:
            return make()
        except ValueError as error:
            reason = str(error).removeprefix(f"failed to process {word!r}: ")
            quoted = json.dumps(word if len(word) <= _MAX_QUOTED else word[:_MAX_QUOTED] + "…", ensure_ascii=False)
            raise self.error(f"failed to process {quoted}: {reason}", location, span=word) from None

    def _report_unset(self, state: StageState, word: str, made: Expansion, location: Location) -> None:
        if not made.unset:
            return
        self.spend(len(state.args) // 8, location)
        for name in sorted(made.unset - {key for key, _ in state.args} - NO_ENVIRONMENT):
            asked = asked_plainly(name, word)
            if asked is not None:
                # Looking for a nearest name among many takes its time.
                options = state.env if len(self.warnings) < _MAX_SUGGESTIONS else ()
                suggestion = did_you_mean(name, options).replace("mean ", "mean $")
                message = f"the variable ${name} is not defined{suggestion}"
                self.warn(rules.UNDEFINED_VAR.warn(message, location, span=asked))


def asked_plainly(name: str, word: str) -> str | None:
    """How `word` asks for a variable, as `$name` or `${name}`. None where by neither: forms such as `${name:-x}`
    provide for one that is not set.
    """
    match = re.search(rf"\$(?:{re.escape(name)}(?![A-Za-z0-9_])|\{{{re.escape(name)}\}})", word)
    return match[0] if match else None
