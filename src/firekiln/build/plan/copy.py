"""COPY and ADD: operations on files, one FileOp an instruction."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from firekiln.build.graph import (
    ContextSource,
    Copy,
    FileOp,
    GitSource,
    HttpSource,
    InlineFile,
    MergeOp,
    Owner,
    Vertex,
)
from firekiln.build.plan import checks, names, paths, remotes
from firekiln.build.plan.owners import parse_mode, parse_owner
from firekiln.build.plan.state import Command, Planning, StageState
from firekiln.dockerfile import instructions as df
from firekiln.dockerfile.text import encode
from firekiln.errors import Location, ReferenceFormatError
from firekiln.oci.reference import check_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What COPY and ADD have in common, expanded. Plain paths lie in `stage`, or in the build context if it is None."""

    instruction: df.Copy | df.Add
    title: str
    sources: tuple[str, ...]
    contents: tuple[InlineFile, ...]
    dest: str
    written_dest: str
    chown: str
    chmod: str
    checksum: str = ""
    stage: StageState | None = None

    @property
    def location(self) -> Location:
        return self.instruction.location

    @property
    def parents(self) -> bool:
        return isinstance(self.instruction, df.Copy) and self.instruction.parents

    @property
    def add(self) -> df.Add | None:
        return self.instruction if isinstance(self.instruction, df.Add) else None


@dataclass(slots=True)
class _Inputs:
    """The vertices that a FileOp reads; 0 is the file system that it changes."""

    vertices: list[Vertex | None]
    places: dict[Vertex | None, int] = field(default_factory=dict)

    def index(self, vertex: Vertex | None) -> int:
        if vertex not in self.places:
            self.places[vertex] = len(self.vertices)
            self.vertices.append(vertex)
        return self.places[vertex]


def copy(planning: Planning, state: StageState, command: Command, instruction: df.Copy) -> None:
    stage = command.sources[0] if command.sources else None
    if stage is not None and not stage.planned:
        raise planning.error(
            f'cannot copy from stage "{instruction.source}", it needs to be defined before current stage '
            f'"{state.name}"',
            instruction.location,
            span=f"--from={instruction.source}",
            hint="a stage can read only from stages above it",
        )
    _plan(planning, state, replace(_request(planning, state, command, instruction), stage=stage))


def add(planning: Planning, state: StageState, command: Command, instruction: df.Add) -> None:
    checksum = planning.word(state, instruction.checksum, instruction.location)
    request = replace(_request(planning, state, command, instruction), checksum=checksum)
    if checksum:
        _check_checksum(planning, request)
    _plan(planning, state, request)


def context(planning: Planning) -> Vertex:
    """The build context, one vertex for all who read it."""
    return planning.vertex(ContextSource(), name=names.CONTEXT)


def _request(planning: Planning, state: StageState, command: Command, instruction: df.Copy | df.Add) -> _Request:
    where = instruction.location
    planning.spend(len(state.working_dir) // 4, where)
    chown = planning.word(state, instruction.chown, where)
    chmod = planning.word(state, instruction.chmod, where)
    sources = tuple(planning.word(state, path, where) for path in instruction.sources.paths)
    written_dest = planning.word(state, instruction.sources.dest, where)
    title = names.file_step(planning, instruction.original, state.env)
    return _Request(
        instruction=instruction,
        title=names.numbered(state, title, on_build=command.on_build),
        sources=sources,
        contents=tuple(_inline(planning, state, content, where) for content in instruction.sources.contents),
        dest=paths.destination(written_dest, state.working_dir),
        written_dest=written_dest,
        chown=chown,
        chmod=chmod,
    )


def _inline(planning: Planning, state: StageState, content: df.SourceContent, where: Location) -> InlineFile:
    data = planning.heredoc(state, content.data, where) if content.expand else content.data
    return InlineFile(name=content.path, data=encode(data))


def _plan(planning: Planning, state: StageState, request: _Request) -> None:
    instruction = request.instruction
    template = _template(planning, request)
    # BuildKit makes no layer of its own of a --link that also changes modes.
    link = instruction.link and not request.chmod
    inputs = _Inputs([None if link else state.vertex])
    actions = [_action(planning, request, source, template, inputs) for source in request.sources]
    actions += [replace(template, source=content, src="/" + content.name) for content in request.contents]
    layer = _vertex(planning, state, request, FileOp(actions=tuple(actions), link=link), tuple(inputs.vertices))
    if link and state.vertex is not None:
        merged = request.title.replace("] ", "] LINK ", 1) if state.steps else f"LINK {request.title}"
        state.vertex = planning.vertex(
            MergeOp(), (state.vertex, layer), name=merged, stage=state.name, location=request.location
        )
    else:
        state.vertex = layer
    state.commit(_history(request), layer)


def _vertex(
    planning: Planning, state: StageState, request: _Request, op: FileOp, inputs: tuple[Vertex | None, ...]
) -> Vertex:
    return planning.vertex(
        op,
        inputs,
        name=request.title,
        stage=state.name,
        location=request.location,
        ignore_cache=state.ignore_cache,
    )


def _template(planning: Planning, request: _Request) -> Copy:
    """What all actions of the instruction share; `source` and `src` are still to be said."""
    owner: Owner | None = parse_owner(request.chown) if request.chown else None
    mode: int | str | None = None
    if request.chmod:
        try:
            mode = parse_mode(request.chmod)
        except ValueError as error:
            raise planning.error(str(error), request.location, span=request.instruction.chmod) from None
    return Copy(
        source=0, src="", dest=request.dest, owner=owner, mode=mode, exclude_patterns=request.instruction.exclude
    )


def _action(planning: Planning, request: _Request, source: str, template: Copy, inputs: _Inputs) -> Copy:
    try:
        git = remotes.parse_git(source)
    except ValueError as error:
        raise planning.error(str(error), request.location, span=source) from None
    if git is not None:
        return _git_action(planning, request, git, template, inputs)
    if remotes.is_http(source):
        return _http_action(planning, request, source, template, inputs)
    return _local_action(planning, request, source, template, inputs)


def _git_action(
    planning: Planning, request: _Request, git: remotes.GitReference, template: Copy, inputs: _Inputs
) -> Copy:
    if request.add is None:
        raise planning.error("source can't be a git ref for COPY", request.location, hint="ADD fetches repositories")
    flag = request.add.keep_git_dir
    if None not in (git.keep_git_dir, flag) and git.keep_git_dir != flag:
        raise planning.error("inconsistent keep-git-dir configuration", request.location)
    if git.checksum and request.checksum and git.checksum != request.checksum:
        raise planning.error(f'checksum mismatch "{request.checksum}" != "{git.checksum}"', request.location)
    op = GitSource(
        remote=git.remote,
        ref=git.ref,
        subdir=git.subdir,
        checksum=git.checksum or request.checksum or None,
        keep_git_dir=bool(flag if git.keep_git_dir is None else git.keep_git_dir),
        submodules=git.submodules is not False,
    )
    fetched = planning.vertex(op, name=request.title, location=request.location)
    return replace(template, source=inputs.index(fetched), src="/")


def _http_action(planning: Planning, request: _Request, url: str, template: Copy, inputs: _Inputs) -> Copy:
    if request.add is None:
        raise planning.error("source can't be a URL for COPY", request.location, hint="ADD fetches URLs")
    if request.checksum:
        try:
            check_digest(request.checksum)
        except ReferenceFormatError as error:
            raise planning.error(error.message, request.location, span=request.checksum) from None
    filename = remotes.http_filename(url)
    op = HttpSource(url=url, checksum=request.checksum or None, filename=filename)
    fetched = planning.vertex(op, name=request.title, location=request.location)
    return replace(template, source=inputs.index(fetched), src="/" + filename, unpack=bool(request.add.unpack))


def _local_action(planning: Planning, request: _Request, source: str, template: Copy, inputs: _Inputs) -> Copy:
    if request.stage is None:
        path = paths.clean(source).lstrip("/")
        checks.ignored(planning, request.instruction.name, path, request.location)
    include: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    directory = source
    if request.parents:
        # Everything before `/./` is where to look, what follows is kept as the path below the destination.
        before, pivot, after = source.partition("/./")
        directory, pattern = (before, after) if pivot else ("/", source)
        pattern = paths.normal(pattern)
        include = (pattern.removeprefix("/"),)
        if not paths.has_wildcards(directory) and not paths.has_wildcards(pattern):
            required = (paths.join("/", directory, pattern),)
    return replace(
        template,
        source=inputs.index(context(planning) if request.stage is None else request.stage.vertex),
        src=paths.normal(directory),
        follow_symlink=True,
        dir_copy_contents=True,
        allow_wildcard=True,
        allow_empty_wildcard=True,
        unpack=_unpacks(request),
        include_patterns=include,
        required_paths=required,
    )


def _unpacks(request: _Request) -> bool:
    """ADD unpacks local archives unless it is told not to."""
    return request.add is not None and request.add.unpack is not False


def _check_checksum(planning: Planning, request: _Request) -> None:
    if len(request.sources) != 1:
        raise planning.error(
            "checksum can't be specified for multiple sources", request.location, span=request.checksum
        )
    if not remotes.is_http(request.sources[0]) and not remotes.is_git(request.sources[0]):
        raise planning.error("checksum requires HTTP(S) or Git sources", request.location, span=request.checksum)


def _history(request: _Request) -> str:
    words = [request.instruction.name]
    if request.parents:
        words.append("--parents")
    if request.chown:
        words.append(f"--chown={request.chown}")
    if request.chmod:
        words.append(f"--chmod={request.chmod}")
    words += request.sources
    words += [f"<<{content.name}" for content in request.contents]
    return " ".join([*words, request.written_dest, "# buildkit"])
