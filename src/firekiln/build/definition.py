"""What a build starts from: a context and a Dockerfile, wherever they lie.

The rules are buildx's. A context is a folder of the host, a git repository, an archive (from a URL or a stream), or
nothing; what comes from a URL or a stream and is no archive is a Dockerfile without a context. A Dockerfile is a file
of the host where the context is a folder, else a file within the context; `-f URL` is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from firekiln.build.context import EMPTY, Context, LocalContext
from firekiln.build.events import Events
from firekiln.build.gitaccess import NO_ACCESS, GitAccess
from firekiln.errors import BuildError, UsageError
from firekiln.values import dataclass

if TYPE_CHECKING:
    from firekiln.build.graph import GitSource, HttpSource
    from firekiln.build.remote import Remote
    from firekiln.rootfs.compression import Readable

DOCKERFILE: Final = "Dockerfile"
_URL = re.compile(r"https?://")
_OTHER = re.compile(r"(git|ssh)://|github\.com/|[\w.-]+@[\w.-]+:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """`dockerfile` is the text, `file` its name for messages; `ignore` is the text of the context's ignore file.

    `moment` is the context's own time, in seconds since 1970: of a commit, or of a file by HTTP. None where there is
    none, as for folders.
    """

    context: Context
    dockerfile: bytes
    file: str = DOCKERFILE
    ignore: str = ""
    ignore_file: str = ".dockerignore"
    moment: int | None = None


class Loader:
    """Reads definitions. What is fetched lies in the folder that `folder` makes, which has to stay as long."""

    def __init__(
        self,
        folder: Callable[[], Path],
        events: Events,
        *,
        build_args: Mapping[str, str] | None = None,
        access: GitAccess = NO_ACCESS,
    ) -> None:
        self._folder = folder
        self._events = events
        self._build_args = build_args or {}
        self._access = access

    def load(self, context: str | Path | Readable | None, dockerfile: str | Path | bytes | None) -> Definition:
        """UsageError where the two don't fit together, BuildError where one can't be had."""
        if isinstance(dockerfile, str) and _URL.match(dockerfile):
            dockerfile = self._remote.text(dockerfile)
        if context is None:
            if dockerfile is None:
                raise UsageError("without a build context the Dockerfile has to be given")
            text, name, _ = host_dockerfile(dockerfile, Path())
            return Definition(context=EMPTY, dockerfile=text, file=name)
        if isinstance(context, str) and is_remote(context) and not Path(context).is_dir():
            return self._remote.url(context, dockerfile)
        if isinstance(context, str | Path):
            return _local(Path(context), dockerfile)
        return self._remote.stream(context, dockerfile)

    def named(self, name: str, value: str) -> Context | None:
        """A `--build-context` that is a folder or a URL; None for what the plan reads itself (images, repositories)."""
        folder = Path(value)
        if folder.is_dir():
            ignore, file = _ignore_of(folder, None)
            return LocalContext(path=folder, ignore=ignore, ignore_file=file)
        if _URL.match(value):
            return self._remote.named(name, value)
        if "://" in value or is_remote(value):
            return None
        raise UsageError(f"--build-context {name}={value}: no such folder")

    def moment(self, source: HttpSource | GitSource) -> int | None:
        """The time of what is to be fetched, which is fetched for that; None where it tells none. BuildError."""
        return self._remote.moment(source)

    def named_moment(self, value: str) -> int | None:
        """The time of a `--build-context`; None for a folder or an image."""
        return self._remote.named_moment(value) if is_remote(value) and not Path(value).is_dir() else None

    @property
    def _remote(self) -> Remote:
        from firekiln.build.remote import Remote  # noqa: PLC0415 - most contexts are folders

        return Remote(self._folder(), self._events, self._build_args, self._access)


def is_remote(text: str) -> bool:
    """Whether a context's word means something that is no folder, as docker tells them apart."""
    return _URL.match(text) is not None or _OTHER.match(text) is not None


def host_dockerfile(dockerfile: str | Path | bytes | None, folder: Path) -> tuple[bytes, str, Path | None]:
    """The Dockerfile's text, its name for messages, and the file, where it is one. BuildError."""
    if isinstance(dockerfile, bytes):
        return dockerfile, DOCKERFILE, None
    path = Path(dockerfile) if dockerfile is not None else folder / DOCKERFILE
    try:
        return path.read_bytes(), path.name, path
    except OSError as error:
        raise BuildError(
            f"failed to read dockerfile: open {path}: {(error.strerror or str(error)).lower()}",
            hint="name the Dockerfile with -f FILE" if dockerfile is None else None,
        ) from error


def _local(folder: Path, dockerfile: str | Path | bytes | None) -> Definition:
    if not folder.is_dir():
        problem = "is no folder" if folder.exists() else "not found"
        raise BuildError(f'unable to prepare context: path "{folder}" {problem}')
    text, name, file = host_dockerfile(dockerfile, folder)
    ignore, ignore_file = _ignore_of(folder, file)
    context = LocalContext(path=folder, ignore=ignore, ignore_file=ignore_file)
    return Definition(context=context, dockerfile=text, file=name, ignore=ignore, ignore_file=ignore_file)


def _ignore_of(folder: Path, dockerfile: Path | None) -> tuple[str, str]:
    """The text and name of `<Dockerfile>.dockerignore` beside the Dockerfile, else of the context's `.dockerignore`."""
    beside = [dockerfile.with_name(dockerfile.name + ".dockerignore")] if dockerfile is not None else []
    for path in (*beside, folder / ".dockerignore"):
        if path.is_file():
            return path.read_text(errors="surrogateescape"), path.name
    return "", ".dockerignore"
