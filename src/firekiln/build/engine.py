"""The engine: from a Dockerfile's text to an image in the store."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from threading import Event as Flag
from typing import TYPE_CHECKING

from firekiln.build.cachekey import Surroundings
from firekiln.build.caches import Caches
from firekiln.build.cachespec import CacheFrom, CacheTo, InlineTo, LocalTo, RegistryTo
from firekiln.build.check import load, plan_definition
from firekiln.build.context import Context
from firekiln.build.events import Events, Status, Warned
from firekiln.build.gitaccess import GitAccess
from firekiln.build.graph import ExecOp, Plan, Vertex
from firekiln.build.image import INLINE_CACHE, compose, timestamp
from firekiln.build.operations import GraphOperations
from firekiln.build.ops.execute import ExecOptions, Executor
from firekiln.build.ops.source import Sources
from firekiln.build.plan import PlanOptions
from firekiln.build.runner import Runner
from firekiln.build.solver import Solved, Solver
from firekiln.build.sources import ImageSource, Resolver
from firekiln.errors import BuildError, FirekilnError, ImageNotFoundError
from firekiln.oci.attestation import PROVENANCE, SBOM
from firekiln.oci.reference import Reference
from firekiln.store import Layer, Store, StoredImage
from firekiln.store.staging import Staging
from firekiln.values import dataclass

if TYPE_CHECKING:
    from firekiln.build.cachefile import ImportedCache
    from firekiln.build.provenance import Contents, Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build. `file` is the Dockerfile's name for messages; `contexts` are by name, the main one "context"."""

    dockerfile: bytes
    file: str = "Dockerfile"
    contexts: Mapping[str, Context] = field(default_factory=dict)
    options: PlanOptions = field(default_factory=PlanOptions)
    execution: ExecOptions = field(default_factory=ExecOptions)
    tags: Sequence[str] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    cache_from: Sequence[CacheFrom] = ()
    cache_to: Sequence[CacheTo] = ()
    provenance: Mode = "max"
    sbom: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A finished build."""

    image: StoredImage
    plan: Plan


class Engine:
    """Builds on one store. `runner` is called when the first step runs; `sources` are where base images come from."""

    def __init__(
        self, *, store: Store, sources: Sequence[ImageSource], runner: Callable[[], Runner], events: Events
    ) -> None:
        self._store = store
        self._resolver = Resolver(sources, events)
        self._runner = runner
        self._events = events

    def build(self, request: BuildRequest, *, cancel: Flag | None = None) -> Built:
        """Plan, solve, and keep the image under the request's tags.

        Setting `cancel` ends the build soon with CanceledError. FirekilnErrors say what went wrong; whatever happens,
        on return nothing runs and nothing is mounted, and what was finished is found by the next build.
        """
        cancel = cancel or Flag()
        with excerpts(request), self._store.using_blobs():
            made = self._plan(request)
            executor = Executor(
                runner=self._runner,
                store=self._store,
                options=request.execution,
                platform=made.platform,
                cancel=cancel,
            )
            for vertex in made.vertices:
                if isinstance(vertex.op, ExecOp):
                    executor.check(vertex)
            with contextlib.ExitStack() as open_until, Staging(self._store) as staging:
                caches = self._caches(request, open_until)
                solved, contents = self._solve(made, request, executor, staging=staging, caches=caches, cancel=cancel)
                with self._events.running("exporting to image") as task:
                    staging.flush()
                    self._events.emit(Status(task=task, name="exporting layers", done=True))
                    image = self._export(made, solved, request, contents, caches)
                    self._events.emit(Status(task=task, name=f"writing image {image.digest}", done=True))
                    for name in request.tags:
                        self._events.emit(
                            Status(task=task, name=f"naming to {Reference.parse(name).tagged()}", done=True)
                        )
                for wanted in request.cache_to:
                    if not isinstance(wanted, InlineTo):
                        self._export_cache(wanted, caches, image)
        return Built(image=image, plan=made)

    def _plan(self, request: BuildRequest) -> Plan:
        with self._events.running(f"[internal] load build definition from {request.file}"):
            definition = load(request.dockerfile, file=request.file, build_args=request.options.build_args)
        made = plan_definition(
            definition, request.options, lambda reference, platform: self._resolver.resolve(reference, platform).image
        )
        for warning in made.warnings:
            self._events.emit(
                Warned(
                    message=warning.message,
                    rule=warning.rule.name,
                    location=warning.location,
                    source=definition.dockerfile.source,
                    span=warning.span,
                )
            )
        for notice in made.notices:
            self._events.emit(Warned(message=notice))
        return made

    def _solve(
        self,
        made: Plan,
        request: BuildRequest,
        executor: Executor,
        *,
        staging: Staging,
        caches: Caches,
        cancel: Flag,
    ) -> tuple[Mapping[Vertex, Solved], Contents]:
        if made.target is None:
            return {}, {}
        execution = request.execution
        operations = GraphOperations(
            store=self._store,
            staging=staging,
            caches=caches,
            sources=Sources(
                resolver=self._resolver,
                contexts=request.contexts,
                store=self._store,
                events=self._events,
                access=GitAccess(secrets=execution.secrets, agent=execution.ssh.get("default")),
            ),
            executor=executor,
            surroundings=Surroundings(
                platform=str(made.platform), network=execution.network, extra_hosts=execution.extra_hosts
            ),
            events=self._events,
            epoch=made.source_date_epoch,
        )
        try:
            solved = Solver(made.vertices, operations, self._events, cancel=cancel).solve(made.target)
        finally:
            operations.note_files()
        caches.note_used()
        return solved, operations.contents

    def _export(
        self,
        made: Plan,
        solved: Mapping[Vertex, Solved],
        request: BuildRequest,
        contents: Contents,
        caches: Caches,
    ) -> StoredImage:
        layers: tuple[Layer, ...] = ()
        if made.target is not None:
            result = solved[made.target]
            assert result.layers is not None  # the solver makes the target ready, and a target is no bare context
            layers = result.layers
        document = compose(made, solved, now=timestamp(time.time()))
        if InlineTo() in request.cache_to:
            from firekiln.build.cachefile import inline  # noqa: PLC0415 - most builds export no cache

            document = replace(document, extra={**document.extra, INLINE_CACHE: inline(caches.told(), layers)})
        return self._store.images.put(
            document,
            layers,
            references=request.tags,
            annotations=request.annotations,
            attest=lambda digest: self._statements(
                made, solved, request, contents, layers, finished=document.created or "", digest=digest
            ),
        )

    def _statements(
        self,
        made: Plan,
        solved: Mapping[Vertex, Solved],
        request: BuildRequest,
        contents: Contents,
        layers: Sequence[Layer],
        *,
        finished: str,
        digest: str,
    ) -> Mapping[str, bytes]:
        """What is said of the image, by kind."""
        said: dict[str, bytes] = {}
        if request.sbom:
            said |= self._sbom(request, layers, created=finished, digest=digest)
        if request.provenance == "none":
            return said
        if not made.history and (known := self._store.images.find(digest)) is not None and known.attestations:
            # `FROM base` alone makes nothing: what made the base is still what made the image.
            return {kind: self._store.blobs.read(blob) for kind, blob in known.attestations.items()} | said
        return said | self._provenance(made, solved, request, contents, finished=finished, digest=digest)

    def _sbom(self, request: BuildRequest, layers: Sequence[Layer], *, created: str, digest: str) -> dict[str, bytes]:
        from firekiln.build.sbom import statement  # noqa: PLC0415 - few builds keep a list of what is installed

        with self._events.running("[internal] list the packages of the image"):
            name = request.tags[0] if request.tags else ""
            found = statement.statement(self._store.layers.merged(layers), name=name, created=created, digest=digest)
        for line in found.unread:
            self._events.emit(Warned(message=f"sbom: {line}"))
        return {SBOM: found.data}

    def _provenance(
        self,
        made: Plan,
        solved: Mapping[Vertex, Solved],
        request: BuildRequest,
        contents: Contents,
        *,
        finished: str,
        digest: str,
    ) -> dict[str, bytes]:
        from firekiln.build import provenance  # noqa: PLC0415 - who wants none loads none

        said = provenance.statement(
            provenance.Definition(
                dockerfile=request.dockerfile,
                file=request.file,
                options=request.options,
                execution=request.execution,
                name=request.tags[0] if request.tags else "",
            ),
            made,
            solved,
            contents=contents,
            image_of=lambda source: self._resolver.resolve(source.reference, source.platform),
            mode=request.provenance,
            finished=finished,
            digest=digest,
        )
        return {PROVENANCE: said}

    def _caches(self, request: BuildRequest, open_until: contextlib.ExitStack) -> Caches:
        def warn(problem: str) -> None:
            self._events.emit(Warned(message=problem))

        imported: list[ImportedCache] = []
        for wanted in request.cache_from:
            from firekiln.build.cacheexchange import open_cache  # noqa: PLC0415 - most builds import no cache

            try:
                with self._events.running(f"importing cache manifest from {wanted.where}"):
                    imported.append(open_cache(wanted, self._store, open_until))
            except FirekilnError as error:
                warn(f"importing cache: {error.message}")
        return Caches(self._store, imported, warn)

    def _export_cache(self, wanted: LocalTo | RegistryTo, caches: Caches, image: StoredImage) -> None:
        from firekiln.build.cacheexchange import export  # noqa: PLC0415 - most builds export no cache

        try:
            with self._events.running(f"exporting cache to {wanted.where}"):
                export(wanted, caches, [layer.digest for layer in image.layers])
        except BuildError as error:
            if not wanted.ignore_error:
                raise
            self._events.emit(Warned(message=error.message))


@contextlib.contextmanager
def excerpts(request: BuildRequest) -> Iterator[None]:
    """Give errors that name a place of the Dockerfile its text, so that the place can be shown."""
    try:
        yield
    except (BuildError, ImageNotFoundError) as error:
        if error.location is not None and error.location.file == request.file:
            error.source = request.dockerfile.decode(errors="surrogateescape")
        raise
