"""What a plan is made from, besides the Dockerfile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Final, Protocol

from firekiln.build.graph import ContextSource, GitSource, HttpSource
from firekiln.oci.config import Image
from firekiln.oci.platform import Platform
from firekiln.values import dataclass

STAGE_IMAGE: Final = "stage-image://"
STAGE_FILES: Final = "stage-files://"


class BaseConfigs(Protocol):
    """Answers with the config of a base image. Called once for each image that the target needs.

    `reference` is normalised (`docker.io/library/debian:bookworm`). ImageNotFoundError where no source has it.
    """

    def __call__(self, reference: str, platform: Platform, /) -> Image: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """The command line's part of a build.

    target          a stage's name or number; "" is the last stage
    all_stages      plan every stage, needed by the target or not, for what there is to say about it
    platform        what the image is for; None is the build machine's own, and a base image's own wins over it
    contexts        --build-context: a name, and what stands for it: a folder, `docker-image://…`, a git or HTTP URL
    prebuilt        stages, by their place in the file, that another engine has built: STAGE_IMAGE and a name of which
                    `base_configs` knows the image, or STAGE_FILES and a name, together that of a context
    no_cache        stages (lower-case names) whose steps run even if their results are known; True is all of them
    ignored         whether .dockerignore leaves a path of the context out; only warnings depend on it
    source_epoch    the time of a source in seconds since 1970, None where it tells none; asked only for
                    `SOURCE_DATE_EPOCH=<context or stage>`
    """

    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    all_stages: bool = False
    platform: Platform | None = None
    build_platform: Platform = field(default_factory=Platform.host)
    labels: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    prebuilt: Mapping[int, str] = field(default_factory=dict)
    no_cache: bool | frozenset[str] = False
    ignored: Callable[[str], bool] | None = None
    source_epoch: Callable[[ContextSource | HttpSource | GitSource], int | None] | None = None
