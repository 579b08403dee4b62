"""`build`, and what else reads a Dockerfile: the engine wired to a store, to sources and to a Runner."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Literal, TypeAlias

from firekiln.api.bases import sources
from firekiln.api.images import BuildResult, Pull, parse_platform
from firekiln.build.cachespec import parse_cache_from, parse_cache_to
from firekiln.build.check import CheckResult
from firekiln.build.check import check as check_dockerfile
from firekiln.build.context import Context
from firekiln.build.definition import Definition, Loader
from firekiln.build.engine import BuildRequest, Engine, excerpts
from firekiln.build.events import Events, Subscriber
from firekiln.build.gitaccess import GitAccess
from firekiln.build.graph import ContextSource, GitSource, HttpSource
from firekiln.build.ops.execute import ExecOptions
from firekiln.build.plan import BaseConfigs, PlanOptions
from firekiln.build.runner import CloseableRunner, Runner
from firekiln.build.sources import Resolver
from firekiln.dockerfile.ignore import read_ignore
from firekiln.errors import ReferenceFormatError, UsageError
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.sandbox.limits import LEAST_MEMORY, SHM_SIZE, Limits, Ulimit
from firekiln.store import Store

if TYPE_CHECKING:
    from firekiln.build.provenance import Mode
    from firekiln.build.stageengine import Prebuilt
    from firekiln.rootfs.compression import Readable

_CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine
)
_EPOCH = "SOURCE_DATE_EPOCH"

StageEngine: TypeAlias = Literal["native", "docker"]
"""Who builds the stages that a target needs."""

Isolation: TypeAlias = Literal["default", "process", "vm"]
"""Where RUN steps run: in namespaces of this host (`default` too), or in a virtual machine."""


def build(
    context: str | Path | Readable | None = ".",
    *,
    dockerfile: str | Path | bytes | None = None,
    tags: Sequence[str] = (),
    target: str = "",
    build_args: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    contexts: Mapping[str, str] | None = None,
    platform: str | None = None,
    no_cache: bool | Collection[str] = False,
    cache_from: Sequence[str] = (),
    cache_to: Sequence[str] = (),
    pull: bool | Pull = "missing",
    engine_images: bool = False,
    stage_engine: StageEngine = "native",
    secrets: Mapping[str, bytes] | None = None,
    ssh: Mapping[str, Path | Sequence[Path]] | None = None,
    network: str = "default",
    isolation: Isolation = "default",
    add_hosts: Mapping[str, str] | None = None,
    memory: int | None = None,
    cpus: float | None = None,
    pids_limit: int | None = None,
    ulimits: Sequence[str] = (),
    shm_size: int | None = None,
    allow: Collection[str] = (),
    ca_bundle: str | Path | None = "host",
    provenance: Mode = "max",
    sbom: bool = False,
    on_event: Subscriber | None = None,
    store: Store | str | Path | None = None,
    cancel: Flag | None = None,
) -> BuildResult:
    """Build an image from a Dockerfile and keep it in the store.

    context     the folder that COPY and ADD read; None is an empty one. A git repository, the URL of an archive or of a
                Dockerfile, or a binary file to read one of these from, as Docker's `-`
    dockerfile  the file, `Dockerfile` in the context by default; bytes are its text; a URL is fetched
    contexts    named contexts: a folder, `docker-image://REFERENCE`, `oci-layout://PATH[:TAG|@DIGEST]`, a git
                repository, the URL of an archive
    annotations of the image's manifest
    no_cache    True to run every step anew, or the stages whose steps are
    cache_from  as docker's `--cache-from`: "type=local,src=DIR"; what can't be imported is a warning
    cache_to    as docker's `--cache-to`: "type=local,dest=DIR,mode=max"
    pull        when registries are asked for base images: "always" (or True), "missing" or "never"
    engine_images  whether Docker Engine's images are bases too, asked for before a registry is
    stage_engine   "docker": the stages that the target needs are built by Docker Engine, the target here
    secrets     the values of RUN --mount=type=secret, by id; GIT_AUTH_TOKEN and GIT_AUTH_HEADER open repositories
    ssh         agents' sockets, by id, or the files of private keys, which an agent holds for the time of the build;
                the one called "default" opens repositories too
    network     for RUN steps that ask for none: default, none or host
    isolation   of RUN steps: "vm" runs them in a virtual machine, on a kernel of their own
    memory      the most that each RUN step may use, in bytes; cpus: how many processors' time
    pids_limit  the most processes and threads of all RUN steps together; 0 is any number
    ulimits     as docker's `--ulimit`: "nofile=1024:2048"; shm_size: of /dev/shm in RUN steps, in bytes
    allow       what RUN steps may ask for: network.host, security.insecure
    ca_bundle   certificates offered to RUN steps: a file, "host" for the host's, None for none
    provenance  what is kept with the image on how it came about: "max", "none", or "min": without the values of
                arguments and without steps
    sbom        whether a list of the packages in the image is kept with it (SPDX)
    on_event    is called with each progress event (`firekiln.build.events`), in order
    store       an open store, or the folder of one; see `store_root` for None
    cancel      ends the build when it is set

    SOURCE_DATE_EPOCH of the environment is honoured unless it is among `build_args`. A FirekilnError says what failed.
    """
    _check_tags(tags)
    arguments = dict(build_args or {})
    if os.environ.get(_EPOCH):
        arguments.setdefault(_EPOCH, os.environ[_EPOCH])
    options = PlanOptions(
        build_args=arguments,
        target=target,
        platform=parse_platform(platform),
        labels=labels or {},
        contexts=contexts or {},
        no_cache=no_cache if isinstance(no_cache, bool) else frozenset(stage.lower() for stage in no_cache),
    )
    execution = ExecOptions(
        network=network,
        extra_hosts=add_hosts or {},
        secrets=secrets or {},
        allow=frozenset(allow) | ({"network.host"} if network == "host" else frozenset()),
        ca_bundle=_ca_bundle(ca_bundle),
        limits=_limits(memory, cpus, ulimits, shm_size),
    )
    _check_isolation(isolation, options.platform)
    events = Events(on_event)
    with contextlib.ExitStack() as stack:
        opened = store if isinstance(store, Store) else stack.enter_context(Store.open(store))
        execution = replace(execution, ssh=_agents(stack, opened, ssh or {}))
        access = GitAccess(secrets=execution.secrets, agent=execution.ssh.get("default"))
        loader = Loader(lambda: opened.temporary.folder, events, build_args=arguments, access=access)
        definition = loader.load(context, dockerfile)
        request = BuildRequest(
            dockerfile=definition.dockerfile,
            file=definition.file,
            contexts={"context": definition.context, **_named_contexts(loader, options.contexts)},
            options=replace(
                options, ignored=_ignored(definition), source_epoch=_moments(loader, definition, options.contexts)
            ),
            execution=execution,
            tags=tags,
            annotations=annotations or {},
            cache_from=tuple(map(parse_cache_from, cache_from)),
            cache_to=tuple(map(parse_cache_to, cache_to)),
            provenance=provenance,
            sbom=sbom,
        )
        bases = sources(opened, events, pull=_pull(pull), engine=engine_images)
        if stage_engine == "docker":
            prebuilt = _docker_stages(stack, opened, events, request, cancel=cancel, pull=_pull(pull) == "always")
            request = replace(
                request,
                contexts={**request.contexts, **prebuilt.contexts},
                options=replace(request.options, prebuilt=prebuilt.stages),
            )
            bases.insert(0, prebuilt)
        engine = Engine(
            store=opened,
            sources=bases,
            runner=_once(lambda: stack.enter_context(_runner(opened, isolation, pids_limit))),
            events=events,
        )
        return BuildResult(image=engine.build(request, cancel=cancel).image)


def check(
    context: str | Path | Readable | None = ".",
    *,
    dockerfile: str | Path | bytes | None = None,
    target: str = "",
    build_args: Mapping[str, str] | None = None,
    platform: str | None = None,
) -> CheckResult:
    """What build checks find in a Dockerfile, in all its stages unless there is a target. Nothing is built."""
    import tempfile  # noqa: PLC0415 - who builds needs none

    options = PlanOptions(build_args=build_args or {}, target=target, platform=parse_platform(platform))
    with contextlib.ExitStack() as stack:

        def folder() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="firekiln.")))

        definition = Loader(folder, Events(), build_args=options.build_args).load(context, dockerfile)
        options = replace(options, ignored=_ignored(definition))
        return check_dockerfile(definition.dockerfile, options, file=definition.file)


@contextlib.contextmanager
def base_configs(store: str | Path | None = None) -> Iterator[BaseConfigs]:
    """What `plan` asks for base images, answered by the store and whatever makes or fetches bases."""
    with Store.open(store) as opened:
        events = Events()
        resolver = Resolver(sources(opened, events, pull="missing"), events)
        yield lambda reference, platform: resolver.resolve(reference, platform).image


def _docker_stages(
    stack: contextlib.ExitStack,
    store: Store,
    events: Events,
    request: BuildRequest,
    *,
    cancel: Flag | None,
    pull: bool,
) -> Prebuilt:
    """The stages that the target needs, built by Docker Engine; `stack` holds what they left on the disk."""
    from firekiln.build.stageengine import DockerStages, StageRequest  # noqa: PLC0415 - most builds know no engine
    from firekiln.oci.engine import DockerEngine  # noqa: PLC0415 - as above

    with excerpts(request), DockerEngine.connect() as engine:
        stages = stack.enter_context(DockerStages(store, engine, events, cancel=cancel))
        return stages.build(
            StageRequest(
                dockerfile=request.dockerfile,
                file=request.file,
                context=request.contexts["context"],
                options=request.options,
                network=request.execution.network,
                extra_hosts=request.execution.extra_hosts,
                pull=pull,
            )
        )


def _check_tags(tags: Sequence[str]) -> None:
    """Say that a name is none before anything is built. ReferenceFormatError."""
    for tag in tags:
        try:
            named = Reference.parse(tag)
        except ReferenceFormatError as error:
            raise ReferenceFormatError(f'invalid tag "{tag}": {error}', hint=error.hint) from error
        if named.digest is not None:
            raise ReferenceFormatError(f'invalid tag "{tag}": refusing to create a tag with a digest reference')


def _named_contexts(loader: Loader, contexts: Mapping[str, str]) -> dict[str, Context]:
    """Those that are folders or URLs; the plan reads the others."""
    named = {name: loader.named(name, value) for name, value in contexts.items()}
    return {name: context for name, context in named.items() if context is not None}


def _agents(
    stack: contextlib.ExitStack, store: Store, wanted: Mapping[str, Path | Sequence[Path]]
) -> Mapping[str, Path]:
    """The sockets of agents by id. Those for private keys end with `stack`."""
    made: dict[str, Path] = {}
    for name, given in wanted.items():
        if isinstance(given, Path) and given.is_socket():
            made[name] = given
            continue
        from firekiln.build.sshagent import agent_with  # noqa: PLC0415 - few builds bring keys

        keys = [given] if isinstance(given, Path) else given
        made[name] = stack.enter_context(agent_with(keys, store.temporary.folder))
    return made


def _moments(
    loader: Loader, definition: Definition, contexts: Mapping[str, str]
) -> Callable[[ContextSource | HttpSource | GitSource], int | None]:
    """What the plan asks for where SOURCE_DATE_EPOCH names a source."""

    def moment(source: ContextSource | HttpSource | GitSource) -> int | None:
        if not isinstance(source, ContextSource):
            return loader.moment(source)
        return definition.moment if source == ContextSource() else loader.named_moment(contexts[source.name])

    return moment


def _ignored(definition: Definition) -> Callable[[str], bool] | None:
    if not definition.ignore:
        return None
    return read_ignore(definition.ignore, file=definition.ignore_file).matches


def _limits(memory: int | None, cpus: float | None, ulimits: Sequence[str], shm_size: int | None) -> Limits:
    """UsageError where a limit is none."""
    if memory is not None and memory < LEAST_MEMORY:
        raise UsageError("minimum memory limit allowed is 6MB")
    if cpus is not None and cpus <= 0:
        raise UsageError(f"--cpus {cpus:g}: give a number of processors above 0")
    try:
        parsed = tuple(Ulimit.parse(text) for text in ulimits)
    except ValueError as error:
        raise UsageError(f"--ulimit: {error}") from error
    return Limits(memory=memory or 0, cpus=cpus or 0.0, ulimits=parsed, shm_size=shm_size or SHM_SIZE)


def _ca_bundle(choice: str | Path | None) -> Path | None:
    if choice is None:
        return None
    if choice == "host":
        named = os.environ.get("SSL_CERT_FILE")
        return next((Path(path) for path in (named, *_CA_BUNDLES) if path and Path(path).is_file()), None)
    path = Path(choice)
    if not path.is_file():
        raise UsageError(f"--ca-bundle: {path} is no file")
    return path


def _runner(store: Store, isolation: Isolation, processes: int | None) -> CloseableRunner:
    from firekiln.api import steps  # noqa: PLC0415 - a fully cached build runs nothing

    return steps.machines(store, processes) if isolation == "vm" else steps.namespaces(store, processes)


def _check_isolation(isolation: Isolation, platform: Platform | None) -> None:
    """UsageError for what no machine of ours runs."""
    if isolation == "vm" and platform is not None and platform.architecture != Platform.host().architecture:
        raise UsageError(
            f"--isolation=vm runs steps for {Platform.host()} only here, not for {platform}",
            hint="build for another platform by --isolation=process, with qemu-user-static",
        )


def _pull(given: bool | Pull) -> Pull:
    if isinstance(given, bool):
        return "always" if given else "missing"
    return given


def _once(make: Callable[[], Runner]) -> Callable[[], Runner]:
    """`make`, called at the first call only, whichever thread that is in."""
    guard = threading.Lock()
    made: list[Runner] = []

    def runner() -> Runner:
        with guard:
            if not made:
                made.append(make())
            return made[0]

    return runner
