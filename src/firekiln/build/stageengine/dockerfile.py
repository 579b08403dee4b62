"""Each stage that a target needs as a Dockerfile of its own. Pure.

What the stage reads of other stages it reads of their images: `FROM other` and `COPY --from=other` name those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from firekiln.build.plan.options import PlanOptions
from firekiln.build.plan.planner import Linked, link
from firekiln.build.plan.stages import reachable
from firekiln.build.plan.state import SCRATCH, StageState
from firekiln.dockerfile import instructions as df
from firekiln.errors import BuildError, ImageNotFoundError
from firekiln.oci.config import Image
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.values import dataclass

_IMAGE_CONTEXT: Final = "docker-image://"
_FROM_FLAG: Final = re.compile(r"(?<=\s)--from=\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBuild:
    """One stage to be built elsewhere.

    index        its place in the file; name: what logs call it
    text         its Dockerfile
    base         the image that it stands on and no stage makes; "" where there is none
    build_args   values for its ARGs, which may come from above the first FROM
    context      whether it reads the build context
    is_base      whether the target stands on it; is_read: whether the target copies or mounts from it
    """

    index: int
    name: str
    text: str
    base: str
    build_args: Mapping[str, str]
    context: bool
    platform: Platform | None
    no_cache: bool
    is_base: bool
    is_read: bool


def stage_builds(dockerfile: df.Dockerfile, options: PlanOptions, image_name: Callable[[int], str]) -> list[StageBuild]:
    """The stages that the target needs, itself left out, each after those that it needs.

    `image_name` says under what name a stage's image is built. DockerfileError; BuildError where Docker's classic
    builder has no such instruction.
    """
    linked = link(dockerfile, options, _no_base)
    target = linked.target
    needed = reachable([target])
    read = {source for command in target.commands for source in command.sources}
    return [
        _stage_build(linked, state, image_name, is_base=state is target.base, is_read=state in read)
        for state in linked.stages
        if state in needed and state is not target and _is_own(state)
    ]


def _stage_build(
    linked: Linked, state: StageState, image_name: Callable[[int], str], *, is_base: bool, is_read: bool
) -> StageBuild:
    assert state.stage is not None
    contexts = linked.planning.options.contexts
    own = state.base is not None and _is_own(state.base)
    named = SCRATCH if state.base_name == SCRATCH else _source(state.base or state, contexts, image_name, own=own)
    lines = [f"# escape={linked.planning.dockerfile.escape}", f"FROM {named}"]
    reads_context = False
    for command in state.commands:
        instruction = command.instruction
        _refuse_unknown(instruction)
        line = instruction.original
        if isinstance(instruction, df.Copy) and instruction.source:
            (source,) = command.sources
            assert source is not None
            line = _FROM_FLAG.sub(f"--from={_source(source, contexts, image_name, own=_is_own(source))}", line, count=1)
        elif isinstance(instruction, df.Copy | df.Add):
            reads_context = True
        lines.append(line)
    return StageBuild(
        index=state.stage.index,
        name=state.name,
        text="\n".join(lines) + "\n",
        base="" if own or named == SCRATCH else named,
        build_args=dict(_build_args(linked, state)),
        context=reads_context,
        platform=state.platform,
        no_cache=state.ignore_cache,
        is_base=is_base,
        is_read=is_read,
    )


def _is_own(state: StageState) -> bool:
    """Whether the state is a stage of the file, which nothing stands for."""
    return state.stage is not None and state.named_context is None


def _source(source: StageState, contexts: Mapping[str, str], image_name: Callable[[int], str], *, own: bool) -> str:
    """The image of a stage, or the one that its name means."""
    if own:
        assert source.stage is not None
        return image_name(source.stage.index)
    return _image(source.base_name, contexts, source)


def _image(name: str, contexts: Mapping[str, str], state: StageState) -> str:
    """The image that FROM or COPY --from names; a named context may stand for it, if that is an image."""
    context = state.named_context or contexts.get(Reference.parse(name).tagged().familiar.removesuffix(":latest"))
    if context is None:
        return name
    if context.startswith(_IMAGE_CONTEXT):
        return context.removeprefix(_IMAGE_CONTEXT)
    raise BuildError(
        f'stage engine docker: the build context "{name}" is no image, and Docker\'s classic builder has no others',
        location=state.location,
    )


def _build_args(linked: Linked, state: StageState) -> Iterator[tuple[str, str]]:
    """What `ARG NAME` gets: of the command line, else of the ARGs above the first FROM and of the platforms."""
    planning = linked.planning
    for command in state.commands:
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
            hint="build without --stage-engine",
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
