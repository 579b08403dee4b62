"""The build graph: what `plan` makes and `solver` carries out. Pure values.

A `Vertex` is one operation on the results of other vertices, as in BuildKit's LLB. Its result is a snapshot: a tuple
of layers, lowest first (empty for `scratch`); RUN, COPY and the like add one layer to their first input's snapshot.
Vertices are compared by identity; that two vertices mean the same is known by their cache keys alone.
"""

from __future__ import annotations

import enum
from dataclasses import field
from typing import TypeAlias

from firekiln.dockerfile.rules import CheckWarning
from firekiln.errors import Location
from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform
from firekiln.values import dataclass

# --- sources: no inputs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """A base image. `reference` is normalised: `docker.io/library/debian:bookworm`, perhaps with `@sha256:…`."""

    reference: str
    platform: Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextSource:
    """The build context (`name="context"`) or a named one (`--build-context name=…`), ignore patterns applied."""

    name: str = "context"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSource:
    """One file fetched by HTTP(S). Its name in the resulting tree is `filename`, or comes from the response if None."""

    url: str
    checksum: str | None = None
    filename: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSource:
    """A checkout: `remote` in git's own spelling; `ref` and `subdir` may be empty."""

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str | None = None
    keep_git_dir: bool = False
    submodules: bool = True


# --- file operations ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """`--chown` or USER, unresolved: names are looked up in the passwd and group of the destination's snapshot.

    None as group means the user's own (for a number without an entry: the same number, as BuildKit's COPY does).
    """

    user: str | int
    group: str | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineFile:
    """A heredoc's content as the source of COPY or ADD, or of a script mounted into RUN."""

    name: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One source path of a COPY or ADD. Field by field BuildKit's `FileActionCopy`.

    `source` is an index into the vertex's inputs (0 is the file system being changed, so at least 1), or the file
    itself. `mode` is an octal number, a symbolic expression (`u=rwX,go=rX`), or None to keep the source's.
    `parents` of COPY --parents is already expressed by `include_patterns` and `required_paths`.
    """

    source: int | InlineFile
    src: str
    dest: str
    owner: Owner | None = None
    mode: int | str | None = None
    follow_symlink: bool = False
    dir_copy_contents: bool = False
    create_dest_path: bool = True
    allow_wildcard: bool = False
    allow_empty_wildcard: bool = False
    unpack: bool = False
    include_patterns: tuple[str, ...] = ()
    exclude_patterns: tuple[str, ...] = ()
    required_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mkdir:
    """WORKDIR's directory: made with its parents where absent; an existing one is left as it is."""

    path: str
    mode: int = 0o755
    owner: Owner | None = None


FileAction: TypeAlias = Copy | Mkdir


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOp:
    """Actions carried out in order on the snapshot of input 0 (`scratch` if `inputs[0]` is None); one layer results.

    `link` is `--link`: the layer is made without looking at input 0, so that it can be reused on another base.
    """

    actions: tuple[FileAction, ...]
    link: bool = False


# --- processes ------------------------------------------------------------------------------------------------------


class Sharing(enum.StrEnum):
    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


class Network(enum.StrEnum):
    DEFAULT = "default"
    NONE = "none"
    HOST = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class BindMount:
    """`input` indexes the vertex's inputs; None is an inline file's directory (heredoc scripts at /dev/pipes)."""

    target: str
    input: int | None
    source: str = "/"
    readonly: bool = True
    files: tuple[InlineFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMount:
    """`id` names the cache; a new one is filled from `source` of input `input`, or is an empty directory."""

    target: str
    id: str
    sharing: Sharing = Sharing.SHARED
    readonly: bool = False
    input: int | None = None
    source: str = "/"
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TmpfsMount:
    """`size` in bytes; 0 is the kernel's default."""

    target: str
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretMount:
    """A secret as a file (`target`), as a variable (`env`), or both."""

    id: str
    target: str | None
    env: str | None = None
    required: bool = False
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SshMount:
    """The ssh agent's socket, bound at `target`."""

    id: str
    target: str
    required: bool = False
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


Mount: TypeAlias = BindMount | CacheMount | TmpfsMount | SecretMount | SshMount


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOp:
    """One RUN. Input 0 is its root file system, further inputs are what its mounts name.

    `env` holds `NAME=value` in order, PATH included as the image has it (a default is the runner's business).
    `user` is USER's word, resolved against the snapshot's passwd and group when it runs; None or "" is root.
    `proxy_env` is handed to the process but is in no key and no image.
    """

    args: tuple[str, ...]
    cwd: str
    env: tuple[str, ...]
    user: str | None = None
    mounts: tuple[Mount, ...] = ()
    network: Network = Network.DEFAULT
    insecure: bool = False
    proxy_env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOp:
    """The layers of all inputs, one on the other (COPY --link's result on its base)."""


Op: TypeAlias = ImageSource | ContextSource | HttpSource | GitSource | FileOp | ExecOp | MergeOp


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vertex:
    """An operation, its inputs (None is `scratch`), and what to call it in a log: `[builder 2/5] RUN make`."""

    op: Op
    inputs: tuple[Vertex | None, ...] = ()
    name: str = ""
    stage: str = ""
    location: Location | None = None
    ignore_cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryStep:
    """One line of the image's history, `created_by` as BuildKit writes it (`RUN /bin/sh -c make # buildkit`).

    `vertex` makes the layer that belongs to it; None is an empty layer. The layer of a COPY --link is made by the
    FileOp, not by the MergeOp above it.
    """

    created_by: str
    vertex: Vertex | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A target's graph and the config of the image that it makes. `target` is None for an empty `FROM scratch`."""

    target: Vertex | None
    config: ImageConfig
    platform: Platform
    vertices: tuple[Vertex, ...] = field(default=())
    """Every vertex that the target needs, each once, inputs before users, in the Dockerfile's order."""
    base: Image | None = None
    """The base image that the target stands on, None on `scratch`: its history, its layers and unknown keys go on."""
    author: str = ""
    """MAINTAINER's, or the base image's."""
    history: tuple[HistoryStep, ...] = ()
    """What the Dockerfile adds to the base image's history."""
    warnings: tuple[CheckWarning, ...] = ()
    """What build checks found."""
    notices: tuple[str, ...] = ()
    """What else is allowed but doubtful, such as a build argument that nothing declares."""
    source_date_epoch: int | None = None
    """Seconds since 1970 that later times are clamped to and that `created` is."""
