"""Contexts and Dockerfiles that are no folders of the host: streams, URLs, git repositories.

Archives are read as Trees and never unpacked on the host. What is fetched lies in a temporary folder of the store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from firekiln.build.context import EMPTY, Context, TreeContext
from firekiln.build.definition import DOCKERFILE, Definition, host_dockerfile
from firekiln.build.events import Events
from firekiln.build.fetch import fetch
from firekiln.build.git import checkout, commit_time, committed
from firekiln.build.gitaccess import GitAccess
from firekiln.build.graph import GitSource, HttpSource
from firekiln.build.plan.remotes import GitReference, parse_context
from firekiln.build.urls import without_password
from firekiln.errors import BuildError, UsageError
from firekiln.rootfs import lookup, tar
from firekiln.rootfs.compression import Compression, Readable, detect
from firekiln.rootfs.stream import FileStream, Prefixed, read_head
from firekiln.rootfs.tar import headers
from firekiln.rootfs.tree import File, Tree, Whiteout, walk

_HEAD: Final = 1024
"""Bytes that tell an archive from a Dockerfile: docker's figure."""
_MAX_DOCKERFILE: Final = 64 << 20
"""Beyond this a file is not even read: the parser's own limit is smaller."""
_KEEP_GIT_DIR: Final = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"


class Remote:
    """What is fetched lies in `folder`, and has to stay as long as it is used."""

    def __init__(self, folder: Path, events: Events, build_args: Mapping[str, str], access: GitAccess) -> None:
        self._folder = folder
        self._access = access
        self._events = events
        self._build_args = build_args

    def text(self, url: str) -> bytes:
        """A Dockerfile by its URL."""
        return _text(self._fetch(url, "[internal] load remote build definition"), without_password(url))

    def stream(self, stream: Readable, dockerfile: str | Path | bytes | None) -> Definition:
        """An archive, or a Dockerfile without a context. UsageError where it is that, and another is given too."""
        head = read_head(stream, _HEAD)
        whole = Prefixed(head, stream)
        if _begins_archive(head):
            return _within(self._archive(whole, "stdin"), dockerfile, "stdin")
        if dockerfile is not None:
            raise UsageError(
                "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
                hint="stdin is no archive: give a folder as the context, or leave out -f",
            )
        text = read_head(whole, _MAX_DOCKERFILE + 1)
        if len(text) > _MAX_DOCKERFILE:
            raise BuildError(f"stdin: more than {_MAX_DOCKERFILE} bytes are no Dockerfile")
        return Definition(context=EMPTY, dockerfile=text)

    def url(self, url: str, dockerfile: str | Path | bytes | None) -> Definition:
        """A git repository, an archive, or a Dockerfile without a context."""
        shown = without_password(url)
        try:
            repository = parse_context(url)
        except ValueError as error:
            raise UsageError(f"{shown}: {error}") from None
        if repository is not None:
            tree, made = self._checkout(repository)
            return replace(_within(tree, dockerfile, without_password(repository.remote)), moment=made)
        file = self._fetch(url, "[internal] load remote build context")
        files = self._unpacked(file, shown)
        if files is not None:
            return replace(_within(files, dockerfile, shown), moment=_moment(file, files))
        if dockerfile is not None:
            raise UsageError(f"{shown} is no archive but a Dockerfile: leave out -f")
        return Definition(context=EMPTY, dockerfile=_text(file, shown), moment=_moment(file))

    def named(self, name: str, url: str) -> Context | None:
        """A named context's URL; None for a repository, which the plan knows how to read."""
        try:
            if parse_context(url) is not None:
                return None
        except ValueError as error:
            raise UsageError(f"--build-context {name}={without_password(url)}: {error}") from None
        return _Fetched(self, name, url)

    def files(self, name: str, url: str) -> Tree:
        """The files of the archive at `url`; of anything else that one file, under its own name."""
        with self._events.running(f"[context {name}] {without_password(url)}"):
            tree = fetch(HttpSource(url=url), folder=self._folder)
        return self._unpacked(_only(tree), without_password(url)) or tree

    def named_moment(self, value: str) -> int | None:
        """The time of a named context's repository or URL. UsageError."""
        try:
            repository = parse_context(value)
        except ValueError as error:
            raise UsageError(f"{without_password(value)}: {error}") from None
        return self.moment(HttpSource(url=value) if repository is None else self._source(repository))

    def moment(self, source: HttpSource | GitSource) -> int | None:
        """The time of a source: the commit's, the server's Last-Modified, or the newest of an archive's."""
        if isinstance(source, GitSource):
            with self._events.running(f"[internal] load git source {without_password(source.remote)}"):
                return commit_time(source, self._place(), self._access)
        file = self._fetch(source.url, f"[internal] load the time of {without_password(source.url)}")
        return _moment(file, None if file.meta.mtime_ns else self._unpacked(file, without_password(source.url)))

    def _fetch(self, url: str, task: str) -> File:
        with self._events.running(task):
            return _only(fetch(HttpSource(url=url), folder=self._folder))

    def _unpacked(self, file: File, name: str) -> Tree | None:
        """The files of an archive; None where it is none."""
        if not _begins_archive(read_head(FileStream(file), _HEAD)):
            return None
        return self._archive(FileStream(file), name)

    def _archive(self, stream: Readable, name: str) -> Tree:
        return tar.read(stream, spool=self._place() / "tar", name=name)

    def _checkout(self, repository: GitReference) -> tuple[Tree, int]:
        """The files, and when the commit was made."""
        with self._events.running(f"[internal] load git source {without_password(repository.remote)}"):
            place = self._place()
            tree = checkout(self._source(repository), place, self._access)
            return tree, committed(place)

    def _source(self, repository: GitReference) -> GitSource:
        keep = repository.keep_git_dir
        return GitSource(
            remote=repository.remote,
            ref=repository.ref,
            subdir=repository.subdir,
            checksum=repository.checksum or None,
            keep_git_dir=self._build_args.get(_KEEP_GIT_DIR) in {"1", "true"} if keep is None else keep,
            submodules=repository.submodules is not False,
        )

    def _place(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="context.", dir=self._folder))


class _Fetched:
    """A URL's files, fetched when they are first asked for."""

    def __init__(self, remote: Remote, name: str, url: str) -> None:
        self._remote = remote
        self._name = name
        self._url = url
        self._tree: Tree | None = None

    def tree(self) -> Tree:
        if self._tree is None:
            self._tree = self._remote.files(self._name, self._url)
        return self._tree


def _begins_archive(head: bytes) -> bool:
    """Whether a stream that begins with these bytes is a tar, plain or compressed."""
    if detect(head) is not Compression.NONE:
        return True
    return len(head) >= headers.BLOCK and headers.begins_archive(head[: headers.BLOCK])


def _within(files: Tree, dockerfile: str | Path | bytes | None, name: str) -> Definition:
    """A context that is no folder of the host. Its Dockerfile lies in it, unless it is a text or an absolute path."""
    if isinstance(dockerfile, bytes) or (dockerfile is not None and Path(dockerfile).is_absolute()):
        text, file, _ = host_dockerfile(dockerfile, Path())
        return _ignoring(files, text, file, ".dockerignore")
    path = str(dockerfile or DOCKERFILE)
    found = _file(files, path)
    if found is None:
        raise BuildError(
            f"failed to read dockerfile: open {path}: no such file or directory in {name}",
            hint="name a Dockerfile within the context with -f FILE" if dockerfile is None else None,
        )
    return _ignoring(files, _text(found, path), Path(path).name, f"{path}.dockerignore", ".dockerignore")


def _ignoring(files: Tree, text: bytes, file: str, *ignore_files: str) -> Definition:
    """The definition with the first of these ignore files that is there."""
    for path in ignore_files:
        found = _file(files, path)
        if found is not None:
            patterns = _text(found, path).decode(errors="surrogateescape")
            context = TreeContext(files=files, ignore=patterns, ignore_file=path)
            return Definition(context=context, dockerfile=text, file=file, ignore=patterns, ignore_file=path)
    return Definition(context=TreeContext(files=files), dockerfile=text, file=file)


def _moment(file: File, files: Tree | None = None) -> int | None:
    """Last-Modified of what was fetched, else the newest of the files in it, in seconds; None where neither is told."""
    newest = file.meta.mtime_ns
    if not newest and files is not None:
        newest = max((node.meta.mtime_ns for _, node in walk(files) if not isinstance(node, Whiteout)), default=0)
    return newest // 10**9 or None


def _only(tree: Tree) -> File:
    [node] = tree.children.values()
    assert isinstance(node, File)
    return node


def _file(files: Tree, path: str) -> File | None:
    node = lookup.resolve(files, path.encode(errors="surrogateescape")).node
    return node if isinstance(node, File) else None


def _text(file: File, name: str) -> bytes:
    if file.size > _MAX_DOCKERFILE:
        raise BuildError(f"{name}: a file of {file.size} bytes is no Dockerfile")
    return file.read()
