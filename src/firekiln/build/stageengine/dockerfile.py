"""Each stage that a target needs as a Dockerfile of its own. Pure.

What the stage reads of other stages it reads of their images: `FROM other` and `COPY --from=other` name those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from firekiln.build.plan.options import PlanOptions
from firekiln.build.plan.planner import Linked, link
from firekiln.build.plan.stages import reachable
from firekiln.build.plan.state import SCRATCH, Command, Planning, StageState
from firekiln.dockerfile import instructions as df
from firekiln.errors import BuildError, ImageNotFoundError, Location
from firekiln.oci.config import Image
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.values import dataclass

_IMAGE_CONTEXT: Final = "docker-image://"
_FROM_FLAG: Final = re.compile(r"(?<=\s)--from=\S+")
_MOUNT_FLAG: Final = re.compile(r"(?<=\s)--mount=\S+")
_MOUNT_FROM: Final = re.compile(r"(?<=[=,])from=[^,]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBuild:
    """One stage to be built elsewhere.

    index        its place in the file; name: what logs call it; location: its FROM
    text         its Dockerfile
    base         the image that it stands on and no stage makes; "" where there is none
    build_args   values for its ARGs, which may come from above the first FROM
    context      whether it reads the build context
    is_base      whether the target stands on it; is_read: whether the target copies or mounts from it
    """

    index: int
    name: str
    location: Location
    text: str
    base: str
    build_args: Mapping[str, str]
    context: bool
    platform: Platform | None
    no_cache: bool
    is_base: bool
    is_read: bool


def stage_builds(
    dockerfile: df.Dockerfile, options: PlanOptions, image_name: Callable[[int], str], *, buildkit: bool = False
) -> list[StageBuild]:
    """The stages that the target needs, itself left out, each after those that it needs.

    `image_name` says under what name a stage's image is built. DockerfileError; BuildError where the classic builder
    has no such instruction, unless they are for BuildKit.
    """
    linked = link(dockerfile, options, _no_base)
    target = linked.target
    needed = reachable([target])
    read = {source for command in target.commands for source in command.sources}
    writer = _Writer(linked, image_name, buildkit=buildkit)
    return [
        writer.stage(state, is_base=state is target.base, is_read=state in read)
        for state in linked.stages
        if state in needed and state is not target and _is_own(state)
    ]


class _Writer:
    """Writes the stages of one file."""

    def __init__(self, linked: Linked, image_name: Callable[[int], str], *, buildkit: bool) -> None:
        self._linked = linked
        self._contexts = linked.planning.options.contexts
        self._image_name = image_name
        self._buildkit = buildkit
        self._lines = linked.planning.dockerfile.source.split("\n")

    def stage(self, state: StageState, *, is_base: bool, is_read: bool) -> StageBuild:
        assert state.stage is not None
        named = self._base(state)
        instructions = [command.instruction for command in state.commands]
        if not self._buildkit:
            for instruction in instructions:
                _refuse_unknown(instruction)
        inherited = _inherited_args(state)
        lines = [*self._directives(), f"FROM {named}", *map(self._command, (*inherited, *state.commands))]
        return StageBuild(
            index=state.stage.index,
            name=state.name,
            location=state.location,
            text="\n".join(lines) + "\n",
            base="" if named == SCRATCH or (state.base is not None and _is_own(state.base)) else named,
            build_args=dict(_build_args(self._linked.planning, (*inherited, *state.commands))),
            context=any(map(_reads_context, instructions)),
            platform=state.platform or self._linked.planning.options.platform,
            no_cache=state.ignore_cache,
            is_base=is_base,
            is_read=is_read,
        )

    def _directives(self) -> Iterator[str]:
        dockerfile = self._linked.planning.dockerfile
        if self._buildkit and dockerfile.syntax is not None:
            yield f"# syntax={dockerfile.syntax}"
        yield f"# escape={dockerfile.escape}"

    def _command(self, command: Command) -> str:
        """The instruction as it is written, but for the stages that it names."""
        where = command.instruction.location
        text = "\n".join(self._lines[where.start - 1 : where.end])
        match command.instruction:
            case df.Copy(source=source) if source:
                (read,) = command.sources
                assert read is not None
                return _FROM_FLAG.sub(lambda _: f"--from={self._image(read)}", text, count=1)
            case df.Run(mounts=mounts):
                sources = iter(command.sources)
                return _MOUNT_FLAG.sub(lambda flag: self._mount(flag[0], next(sources)), text, count=len(mounts))
            case _:
                return text

    def _mount(self, flag: str, source: StageState | None) -> str:
        return flag if source is None else _MOUNT_FROM.sub(lambda _: f"from={self._image(source)}", flag)

    def _base(self, state: StageState) -> str:
        """What follows FROM."""
        if state.base is not None:
            return self._image(state.base)
        return SCRATCH if state.base_name == SCRATCH else self._foreign(state)

    def _image(self, state: StageState) -> str:
        """The image of a stage, or the one that --from names."""
        if _is_own(state):
            assert state.stage is not None
            return self._image_name(state.stage.index)
        return self._foreign(state)

    def _foreign(self, state: StageState) -> str:
        """The image that FROM or --from names; a named context may stand for it."""
        name = state.base_name
        known = Reference.parse(name).tagged().familiar.removesuffix(":latest")
        context = state.named_context or self._contexts.get(known)
        if context is None:
            return name
        if context.startswith(_IMAGE_CONTEXT):
            return context.removeprefix(_IMAGE_CONTEXT)
        raise BuildError(
            f'stage engine docker: the build context "{name}" is no image, and the engine is given no others',
            location=state.location,
        )


def _is_own(state: StageState) -> bool:
    """Whether the state is a stage of the file, which nothing stands for."""
    return state.stage is not None and state.named_context is None


def _reads_context(instruction: df.Instruction) -> bool:
    match instruction:
        case df.Copy(source=source):
            return not source
        case df.Run(mounts=mounts):
            return bool(mounts)  # a bind mount is of the context, unless it says otherwise
        case _:
            return isinstance(instruction, df.Add)


def _inherited_args(state: StageState) -> list[Command]:
    """The ARGs of the stages that a stage stands on, the lowest's first: it sees them, but their images don't tell."""
    found: list[Command] = []
    base = state.base
    while base is not None and _is_own(base):
        found = [command for command in base.commands if isinstance(command.instruction, df.Arg)] + found
        base = base.base
    return found


def _build_args(planning: Planning, commands: Iterable[Command]) -> Iterator[tuple[str, str]]:
    """What `ARG NAME` gets: of the command line, else of the ARGs above the first FROM and of the platforms."""
    for command in commands:
        if isinstance(command.instruction, df.Arg):
            for item in command.instruction.args:
                if item.key in planning.build_args:
                    yield item.key, planning.build_args[item.key]
                elif item.value is None and item.key in planning.args:
                    yield item.key, planning.args[item.key]
    for line in planning.proxy_env:
        name, _, value = line.partition("=")
        yield name, value


def _refuse_unknown(instruction: df.Instruction) -> None:
    """BuildError for what came with BuildKit: the classic builder would fail at it, or do something else."""
    found = next((what for what, used in _of_buildkit(instruction) if used), None)
    if found is not None:
        raise BuildError(
            f"stage engine docker: {instruction.name} has {found}, which Docker's classic builder does not know",
            location=instruction.location,
            hint="DOCKER_BUILDKIT=1 has docker's client build with BuildKit",
        )


def _of_buildkit(instruction: df.Instruction) -> Iterator[tuple[str, object]]:
    match instruction:
        case df.Run():
            yield "a heredoc", instruction.command.files
            yield "--mount", instruction.mounts
            yield "--network", instruction.network != "default"
            yield "--security", instruction.security != "sandbox"
            yield "--device", instruction.devices
        case df.Copy() | df.Add():
            yield "a heredoc", instruction.sources.contents
            yield "--chmod", instruction.chmod
            yield "--link", instruction.link
            yield "--exclude", instruction.exclude
            if isinstance(instruction, df.Copy):
                yield "--parents", instruction.parents
            else:
                yield "--checksum", instruction.checksum
                yield "--keep-git-dir", instruction.keep_git_dir is not None
                yield "--unpack", instruction.unpack is not None
        case _:
            return


def _no_base(reference: str, platform: Platform, /) -> Image:
    raise ImageNotFoundError(f"{reference}: no image for {platform} is asked for here")
