"""Typed instructions: what a Dockerfile says, one frozen value per instruction, as BuildKit's `instructions` package.

Words are as written: quotes, escapes and `$variables` stand in them until the plan expands them (`expand.py`), since
what they mean depends on the instructions before. What BuildKit checks before any expansion has been checked already.

Dockerfile
├── global_args      ARG before the first FROM
└── stages           Stage: From + the instructions up to the next FROM
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from firekiln.dockerfile.heredoc import Heredoc
from firekiln.errors import Location
from firekiln.values import dataclass

# --- parts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue:
    """One pair of ENV or LABEL. `no_delim` marks the old form `ENV key value`, where `value` is the line's rest."""

    key: str
    value: str
    no_delim: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgDefault:
    """One name of ARG. `value` None (`ARG x`) and "" (`ARG x=`) differ. `comment` is its `# x …` description."""

    key: str
    value: str | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """The command of RUN, CMD or ENTRYPOINT.

    Shell form (`shell` true): `args` is at most one element, the whole line, to be given to the stage's SHELL. Exec
    form: `args` is argv. `files` are RUN's heredocs, which only the shell form has; see `heredoc.run_script`.
    """

    args: tuple[str, ...]
    shell: bool
    files: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceContent:
    """A heredoc as the source of COPY or ADD: `data`, tabs chomped already, becomes the file `path`.

    With `expand` the plan expands variables in `data` (quotes stay, as in a shell's heredoc).
    """

    path: str
    data: str
    expand: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What COPY and ADD copy: paths in the words' order, then heredocs; all into `dest`."""

    paths: tuple[str, ...]
    dest: str
    contents: tuple[SourceContent, ...] = ()


# --- instructions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instruction:
    """What all have: where it stands, its text on one line (continuations joined, heredocs left out), and the
    comments right above it, without their `#`.
    """

    name: ClassVar[str]

    location: Location
    original: str
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class From(_Instruction):
    """`FROM [--platform=P] image [AS alias]`. `alias` is as written; a stage's name is its lower-case form."""

    name: ClassVar[str] = "FROM"

    image: str
    alias: str | None = None
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(_Instruction):
    """`ARG name[=default]…`"""

    name: ClassVar[str] = "ARG"

    args: tuple[ArgDefault, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(_Instruction):
    """`ENV key=value…` or `ENV key value`. All values are expanded with the environment before this instruction."""

    name: ClassVar[str] = "ENV"

    env: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(_Instruction):
    """`LABEL key=value…`. Keys are expanded too."""

    name: ClassVar[str] = "LABEL"

    labels: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(_Instruction):
    """`MAINTAINER name`: the image's author."""

    name: ClassVar[str] = "MAINTAINER"

    maintainer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(_Instruction):
    """`RUN [flags] command`. `mounts` are the values of --mount as written: `mounts.parse_mount` reads one, with the
    plan's expansion. `devices` likewise. `network` is "default", "none" or "host"; `security` "sandbox" or "insecure".
    """

    name: ClassVar[str] = "RUN"

    command: CommandLine
    mounts: tuple[str, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(_Instruction):
    """`CMD command`. Never expanded. An empty exec form (`CMD []`) unsets an inherited one."""

    name: ClassVar[str] = "CMD"

    command: CommandLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(_Instruction):
    """`ENTRYPOINT command`. Never expanded."""

    name: ClassVar[str] = "ENTRYPOINT"

    command: CommandLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(_Instruction):
    """`COPY`. `source` is --from: a stage's name or number, a named context or an image; "" is the build context.

    `chown` and `chmod` are "" where not given. `link`, `parents` are plain switches.
    """

    name: ClassVar[str] = "COPY"

    sources: Sources
    source: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(_Instruction):
    """`ADD`. `keep_git_dir` and `unpack` are None where the flag is not given: the default depends on the source."""

    name: ClassVar[str] = "ADD"

    sources: Sources
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class User(_Instruction):
    """`USER name[:group]`"""

    name: ClassVar[str] = "USER"

    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(_Instruction):
    """`WORKDIR path`; relative paths go on from the last one."""

    name: ClassVar[str] = "WORKDIR"

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(_Instruction):
    """`EXPOSE port[-port][/protocol]…`; each word may expand to several."""

    name: ClassVar[str] = "EXPOSE"

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(_Instruction):
    """`VOLUME path…` or `VOLUME ["path", …]`"""

    name: ClassVar[str] = "VOLUME"

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(_Instruction):
    """`SHELL ["program", "argument", …]`: never expanded."""

    name: ClassVar[str] = "SHELL"

    shell: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(_Instruction):
    """`STOPSIGNAL signal`: a name or a number."""

    name: ClassVar[str] = "STOPSIGNAL"

    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(_Instruction):
    """`HEALTHCHECK`. `test` is `("NONE",)`, `("CMD", …argv)` or `("CMD-SHELL", line)`, never expanded.

    Durations are in nanoseconds; 0 is "not given".
    """

    name: ClassVar[str] = "HEALTHCHECK"

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild(_Instruction):
    """`ONBUILD trigger`. `expression` is the trigger's text, heredocs included, as it stands in the image config.

    `convert.parse_trigger` makes the instruction of it.
    """

    name: ClassVar[str] = "ONBUILD"

    expression: str


Instruction: TypeAlias = (
    Arg
    | Env
    | Label
    | Maintainer
    | Run
    | Cmd
    | Entrypoint
    | Copy
    | Add
    | User
    | Workdir
    | Expose
    | Volume
    | Shell
    | StopSignal
    | Healthcheck
    | OnBuild
)
"""Everything that stands in a stage; `From` opens one."""


# --- the file -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A build stage. `name` is lower case, "" where it has none (then only its index names it).

    `comment` is the description in a `# name …` comment above its FROM.
    """

    index: int
    name: str
    base: From
    instructions: tuple[Instruction, ...]
    comment: str = ""

    @property
    def location(self) -> Location:
        return self.base.location


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """A whole file. `source` is its text (undecodable bytes as surrogates), `escape` its continuation character.

    `syntax` and `check` are the values of these directives, None where absent.
    """

    file: str
    source: str
    escape: str
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    syntax: str | None = None
    check: str | None = None
