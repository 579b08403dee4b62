"""`import --change`: the config that a few instructions of a Dockerfile make on nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from firekiln.build.check import load
from firekiln.build.image import timestamp
from firekiln.build.plan import PlanOptions
from firekiln.build.plan.planner import plan
from firekiln.dockerfile import instructions as df
from firekiln.errors import DockerfileError, ImageNotFoundError
from firekiln.oci.config import Image
from firekiln.oci.platform import Platform

_FILE = "--change"
_ALLOWED = (
    df.Cmd | df.Entrypoint | df.Env | df.Expose | df.Healthcheck | df.Label | df.OnBuild | df.Shell | df.StopSignal
    | df.User | df.Volume | df.Workdir
)  # fmt: skip


def image_of(changes: Sequence[str], platform: Platform) -> Image:
    """An image's config without layers and history, made now; each change is one instruction of a Dockerfile.

    DockerfileError where one is malformed, or does more than change the config.
    """
    dockerfile = load("\n".join(("FROM scratch", *changes)), file=_FILE).dockerfile
    instructions = dockerfile.stages[0].instructions
    for instruction in instructions:
        if not isinstance(instruction, _ALLOWED):
            raise DockerfileError(f"--change: {instruction.name} is not a valid change command")
    if len(dockerfile.stages) > 1:
        raise DockerfileError("--change: FROM is not a valid change command")
    config = plan(dockerfile, PlanOptions(platform=platform), _no_base).config
    # `FROM scratch` brings a PATH and a directory for the steps that follow: an imported image says what it was told.
    variables = {pair.key for item in instructions if isinstance(item, df.Env) for pair in item.env}
    if "PATH" not in variables:
        config = replace(config, env=tuple(line for line in config.env if not line.startswith("PATH=")))
    if not any(isinstance(item, df.Workdir) for item in instructions):
        config = replace(config, working_dir="")
    return Image(platform=platform, config=config, created=timestamp(time.time()))


def _no_base(reference: str, platform: Platform, /) -> Image:
    raise ImageNotFoundError(f"{reference}: no image for {platform} is asked for here")
