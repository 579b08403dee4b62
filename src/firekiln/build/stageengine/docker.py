"""Stages built as images of Docker Engine, one after the other; what the target asks of them is read from their tars.

Each image bears a random name while it is needed. It is saved, its layers lie in the process's temporary folder, and
its Tree is what they show together: the COPY that reads it finds its sources there, whiteouts, links and directories
respected, and takes the files right from the layers. The images are removed, also where the build fails.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import field
from threading import Event as Flag
from typing import Final, Self

from firekiln.build.check import load
from firekiln.build.context import Context, TreeContext
from firekiln.build.engineimages import engine_archive
from firekiln.build.events import Events, Output
from firekiln.build.plan.options import STAGE_FILES, STAGE_IMAGE, PlanOptions
from firekiln.build.solver import CanceledError
from firekiln.build.sources import ingested
from firekiln.build.stageengine.dockerfile import StageBuild, stage_builds
from firekiln.errors import BuildError, EngineError
from firekiln.oci import engineclient
from firekiln.oci.blobsource import BlobSource
from firekiln.oci.engine import DockerEngine, ImageBuild
from firekiln.oci.layout import RemoteImage
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.rootfs import tar
from firekiln.rootfs.merge import merge
from firekiln.rootfs.tree import Directory, File, Meta, Tree
from firekiln.store import Store, StoredImage
from firekiln.store.archives import saved
from firekiln.store.ingest import spool_layer
from firekiln.values import dataclass

_REPOSITORY: Final = "firekiln-stage"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRequest:
    """What the stages are built from; as in `BuildRequest`."""

    dockerfile: bytes
    file: str
    context: Context
    options: PlanOptions
    network: str = "default"
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    pull: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prebuilt:
    """What stands for the stages: `PlanOptions.prebuilt`, the contexts that it names, and an ImageSource's images."""

    stages: Mapping[int, str]
    contexts: Mapping[str, Context]
    images: Mapping[str, StoredImage]

    def resolve(self, reference: str, platform: Platform) -> StoredImage | None:  # noqa: ARG002 - ImageSource's
        return self.images.get(reference)


class DockerStages:
    """Builds stages on an engine. What it makes on the disk stays until the context is left."""

    def __init__(self, store: Store, engine: DockerEngine, events: Events, *, cancel: Flag | None = None) -> None:
        self._store = store
        self._engine = engine
        self._events = events
        self._cancel = cancel or Flag()
        self._stack = ExitStack()
        self._buildkit = engineclient.wants_buildkit()
        self._token = secrets.token_hex(8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def build(self, request: StageRequest) -> Prebuilt:
        """All stages that the target needs. On return no image of them is left on the engine.

        DockerfileError; BuildError, with the engine's words, where a stage fails; EngineError.
        """
        dockerfile = load(request.dockerfile, file=request.file, build_args=request.options.build_args).dockerfile
        stages: dict[int, str] = {}
        contexts: dict[str, Context] = {}
        images: dict[str, StoredImage] = {}
        with ExitStack() as temporary:
            for stage in stage_builds(dockerfile, request.options, self._name, buildkit=self._buildkit):
                self._build(stage, request, temporary)
                if not stage.is_base and not stage.is_read:
                    continue
                with self._events.running(f"[{stage.name}] save"):
                    if stage.is_base:
                        stages[stage.index] = f"{STAGE_IMAGE}{stage.index}"
                        images[stages[stage.index]] = self._image(stage)
                    else:
                        stages[stage.index] = f"{STAGE_FILES}{stage.index}"
                        contexts[stages[stage.index]] = TreeContext(files=self._files(stage))
        return Prebuilt(stages=stages, contexts=contexts, images=images)

    def _name(self, index: int) -> str:
        return f"{_REPOSITORY}:{self._token}-{index}"

    def _build(self, stage: StageBuild, request: StageRequest, temporary: ExitStack) -> None:
        """Build a stage's image, which `temporary` removes."""
        name = self._name(stage.index)
        if stage.base:
            self._bring_base(stage.base, request.options.platform, temporary)
        dockerfile = f".{name.replace(':', '.')}"
        wanted = ImageBuild(
            context=tar.pieces(_context(request.context if stage.context else None, dockerfile, stage.text)),
            dockerfile=dockerfile,
            tag=name,
            build_args=stage.build_args,
            network=request.network,
            extra_hosts=request.extra_hosts,
            no_cache=stage.no_cache,
            pull=request.pull and bool(stage.base),
            platform=stage.platform or request.options.platform,
        )
        temporary.callback(self._remove, name)
        with self._events.running(f"[{stage.name}] docker build") as task:

            def output(text: str) -> None:
                if self._cancel.is_set():
                    raise CanceledError("canceled")
                self._events.emit(Output(task=task, fd=1, data=text.encode(errors="surrogateescape")))

            try:
                build = engineclient.build if self._buildkit else self._engine.build
                build(wanted, output)
            except EngineError as error:
                message = f"stage {stage.name}: {error.message}"
                raise BuildError(message, location=stage.location, hint=error.hint) from error

    def _bring_base(self, base: str, platform: Platform | None, temporary: ExitStack) -> None:
        """Lend the engine a base that it lacks and the store has: it could perhaps get it nowhere else."""
        name = str(Reference.parse(base).tagged())
        if self._engine.find(base) is not None or (image := self._store.images.find(name, platform)) is None:
            return
        with self._events.running(f"[internal] lend {base} to the engine"):
            temporary.callback(self._remove, base)
            with saved(self._store, [(image, [name])]) as archive:
                self._engine.load(archive)

    def _remove(self, name: str) -> None:
        """An image that can't be removed any more because the engine is gone must not hide why."""
        with suppress(EngineError):
            self._engine.remove(name)

    def _files(self, stage: StageBuild) -> Tree:
        """What the image's layers show together."""
        with self._archive(stage) as (source, remote):
            below: list[Tree] = []
            for descriptor, diff_id in zip(remote.manifest.layers, remote.image.diff_ids, strict=True):
                spooled = self._stack.enter_context(spool_layer(self._store, source, descriptor, diff_id))
                under = merge(below) if below else None
                below.append(tar.read(spooled.path, whiteouts=True, below=under, name=spooled.name))
            return merge(below)

    def _image(self, stage: StageBuild) -> StoredImage:
        """The image as the store's, without a name."""
        with self._archive(stage) as (source, remote):
            return ingested(self._store, source, remote)

    def _archive(self, stage: StageBuild) -> AbstractContextManager[tuple[BlobSource, RemoteImage]]:
        return engine_archive(self._store, self._engine, self._name(stage.index), stage.platform or Platform.host())


def _context(context: Context | None, name: str, text: str) -> Tree:
    """The context with the stage's Dockerfile under a name that nothing in it has.

    Its root has plain metadata: docker's client tells an archive by its first 512 bytes, which may be no pax header.
    """
    children = context.tree().children if context is not None else {}
    dockerfile = File.of(text.encode(errors="surrogateescape"), Meta(mode=0o644))
    return Directory(meta=Meta(mode=0o755), children={**children, name.encode(): dockerfile})
