"""From a stage's base to a snapshot and a config: base images, named contexts, `scratch`, ONBUILD triggers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from firekiln.build.graph import ContextSource, Copy, FileOp, GitSource, ImageSource, Vertex
from firekiln.build.plan import checks, names, paths, remotes
from firekiln.build.plan.options import STAGE_FILES, STAGE_IMAGE
from firekiln.build.plan.stages import Stages, command_of, reachable
from firekiln.build.plan.state import DEFAULT_PATH, SCRATCH, Planning, StageState
from firekiln.dockerfile import instructions as df
from firekiln.dockerfile.convert import parse_trigger
from firekiln.dockerfile.suggestions import did_you_mean
from firekiln.errors import ImageNotFoundError, ReferenceFormatError, UsageError
from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.reference import Reference

_IMAGE_CONTEXT = "docker-image://"
_LAYOUT_CONTEXT = "oci-layout://"
_TRIGGER_WORK = 64
"""What it costs to read a trigger, in `Planning.spend`'s units."""


def resolve(planning: Planning, stages: Stages, targets: Sequence[StageState]) -> set[StageState]:
    """Resolve the bases of all that the targets need, and take up their triggers, which may need still more.

    DockerfileError: a reference that is none, a trigger that can't be read. ImageNotFoundError from the resolver.
    UsageError: a named context that is none.
    """
    while True:
        needed = reachable(targets)
        for state in stages:
            if state.base is None and not state.resolved and not state.planned:
                _resolve_base(planning, stages, state, needed=state in needed)
        before = len(needed)
        for state in stages:
            if state in needed:
                _take_triggers(planning, stages, state)
        if len(reachable(targets)) == before:
            return needed


def enter(planning: Planning, state: StageState) -> None:
    """Make a stage ready for its first instruction: inherit, give PATH a value, take the image's variables."""
    state.inherit()
    planning.spend((4 * len(state.env) + len(state.history) + len(state.args)) // 8, state.location)
    config = state.config
    if not any(line.partition("=")[0] == "PATH" for line in config.env):
        config = replace(config, env=(*config.env, f"PATH={DEFAULT_PATH}"))
    if config.working_dir:
        config = replace(config, working_dir=paths.working_directory("/", config.working_dir))
    state.config = config
    for line in config.env:
        name, _, value = line.partition("=")
        state.set_step_env(name, value)


def _resolve_base(planning: Planning, stages: Stages, state: StageState, *, needed: bool) -> None:
    # BuildKit checks the reference of every stage, needed or not; images only of those that are.
    state.resolved = needed
    if state.base_name == SCRATCH and state.named_context is None:
        state.platform = planning.platform
        state.config = ImageConfig(working_dir="/", env=(f"PATH={DEFAULT_PATH}",))
        state.planned = state.stage is None
        return
    try:
        reference = Reference.parse(state.base_name).tagged()
    except ReferenceFormatError as error:
        raise planning.error(
            f'failed to parse stage name "{state.base_name}": {error.message}',
            state.location,
            span=state.base_name,
            hint=error.hint,
        ) from None
    if needed:
        _load(planning, stages, state, reference)
        state.planned = state.planned or state.stage is None


def _load(planning: Planning, stages: Stages, state: StageState, reference: Reference) -> None:
    context, name = state.named_context, state.stage.name if state.stage else ""
    if context is None:
        name = reference.familiar.removesuffix(":latest")
        context = planning.options.contexts.get(name)
    else:
        state.planned = True
    state.platform = state.platform or planning.platform
    if context is None:
        _load_image(planning, stages, state, str(reference))
    elif context.startswith(_IMAGE_CONTEXT):
        _load_image(planning, stages, state, _image_context(name, context))
    elif context.startswith((_LAYOUT_CONTEXT, STAGE_IMAGE)):
        _load_image(planning, stages, state, context)
    elif context.startswith(STAGE_FILES):
        state.vertex = planning.vertex(ContextSource(name=context), name=f"[{state.name}] load from engine")
    else:
        files = _context(planning, name, context)
        state.vertex = files
        if state.stage is not None:
            state.vertex = _on_scratch(planning, state, name, files)
            state.commit(f"FROM {name} # buildkit", state.vertex)


def _load_image(planning: Planning, stages: Stages, state: StageState, reference: str) -> None:
    platform = state.platform or planning.platform
    try:
        image = planning.base_configs(reference, platform)
    except ImageNotFoundError as error:
        error.hint = did_you_mean(state.base_name, stages.names()).strip(" ()") or error.hint
        error.location = error.location or state.location
        raise
    checks.base_platform(planning, state, wanted=platform, actual=image.platform)
    state.image, state.config, state.author = image, image.config, image.author
    if _has_layers(image):
        state.vertex = planning.vertex(
            ImageSource(reference=reference, platform=platform),
            name=names.numbered(state, f"FROM {reference}"),
            stage=state.name,
            location=state.location,
        )


def _image_context(name: str, value: str) -> str:
    try:
        return str(Reference.parse(value.removeprefix(_IMAGE_CONTEXT)).tagged())
    except ReferenceFormatError as error:
        raise UsageError(f"--build-context {name}={value}: {error.message}", hint=error.hint) from None


def _context(planning: Planning, name: str, value: str) -> Vertex:
    try:
        git = remotes.parse_context(value)
    except ValueError as error:
        raise UsageError(f"--build-context {name}={value}: {error}") from None
    if git is not None:
        op = GitSource(remote=git.remote, ref=git.ref, subdir=git.subdir, checksum=git.checksum or None)
        return planning.vertex(op, name=f"[context {name}] load from git")
    if "://" in value and not remotes.is_http(value):
        raise UsageError(
            f"--build-context {name}={value}: no such kind of context",
            hint="a named context is a folder, docker-image://REFERENCE, oci-layout://PATH, a git repository or a URL",
        )
    return planning.vertex(ContextSource(name=name), name=f"[context {name}] load from client")


def _on_scratch(planning: Planning, state: StageState, name: str, files: Vertex) -> Vertex:
    """A base made of a context's files: an image wants layers."""
    op = FileOp(actions=(Copy(source=1, src="/", dest="/", dir_copy_contents=True),))
    return planning.vertex(
        op, (None, files), name=names.numbered(state, f"FROM {name}"), stage=state.name, location=state.location
    )


def _take_triggers(planning: Planning, stages: Stages, state: StageState) -> None:
    """ONBUILD of the base image, or of the base stage's own instructions, become the stage's first instructions."""
    if state.triggers_taken or (state.base is None and not state.resolved):
        return
    state.triggers_taken = True
    triggers = list(state.config.on_build)
    if state.base is not None:
        own = (command.instruction for command in state.base.commands)
        triggers += [item.expression for item in own if isinstance(item, df.OnBuild)]
    state.config = replace(state.config, on_build=())
    if not triggers:
        return
    planning.spend(_TRIGGER_WORK * len(triggers), state.location)
    commands = []
    for trigger in triggers:
        instruction = parse_trigger(trigger, state.location)
        commands.append(command_of(planning, stages, state, instruction, on_build=True))
    state.commands = [*commands, *state.commands]
    state.steps += sum(isinstance(command.instruction, df.Add | df.Copy | df.Run | df.Workdir) for command in commands)


def _has_layers(image: Image) -> bool:
    """An image without layers is as good as `scratch`; old ones tell only by their history."""
    return bool(image.diff_ids) or any(not line.empty_layer for line in image.history)
