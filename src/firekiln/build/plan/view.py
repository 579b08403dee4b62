"""A plan as JSON: `{"config", "runs", "files", "sources"}`, what `firekiln dockerfile plan` prints.

The words are those of BuildKit's LLB in its protobuf's JSON form (`pb.FileActionCopy` and its like), so that two
builders' plans can be compared. Vertices stand in the plan's order, inputs first.
"""

from __future__ import annotations

import base64
from typing import TypeAlias

from firekiln.build.graph import (
    BindMount,
    CacheMount,
    ContextSource,
    Copy,
    ExecOp,
    FileOp,
    GitSource,
    HttpSource,
    ImageSource,
    InlineFile,
    MergeOp,
    Mkdir,
    Owner,
    Plan,
    Vertex,
)
from firekiln.oci.config import Json

_Object: TypeAlias = dict[str, Json]
_NO_TIME = "-1"
_SAME_MODE = -1


def plan_to_json(plan: Plan) -> _Object:
    """The image config with Docker's keys, the processes, the file operations and the sources."""
    return {
        "config": {key: value for key, value in plan.config.to_json().items() if value},
        "runs": [_run(vertex.op) for vertex in plan.vertices if isinstance(vertex.op, ExecOp)],
        "files": _files(plan),
        "sources": [source for vertex in plan.vertices if (source := _source(vertex)) is not None],
    }


def _run(op: ExecOp) -> _Object:
    return {"args": list(op.args), "cwd": op.cwd, "env": list(op.env), "user": op.user or ""}


def _files(plan: Plan) -> list[Json]:
    """Files that stand in the Dockerfile are made before they are copied or mounted, equal ones once."""
    made: list[Json] = []
    for vertex in plan.vertices:
        made += [item for item in _made_first(vertex) if item not in made]
        if isinstance(vertex.op, FileOp):
            made += [_action(action) for action in vertex.op.actions]
    return made


def _made_first(vertex: Vertex) -> list[Json]:
    """What BuildKit makes by file operations of their own: heredocs, a script's folder, an owned cache's root."""
    made: list[Json] = []
    if isinstance(vertex.op, FileOp):
        made += [
            _mkfile(action.source)
            for action in vertex.op.actions
            if isinstance(action, Copy) and isinstance(action.source, InlineFile)
        ]
    elif isinstance(vertex.op, ExecOp):
        for mount in vertex.op.mounts:
            if isinstance(mount, BindMount):
                made += [_mkfile(file) for file in mount.files]
            elif isinstance(mount, CacheMount) and (mount.mode, mount.uid, mount.gid) != (0o755, 0, 0):
                made.append(_cache_root(mount))
    return made


def _cache_root(mount: CacheMount) -> _Object:
    owner: _Object = {"user": {"byID": mount.uid}, "group": {"byID": mount.gid}}
    made: _Object = {"path": "/cache", "owner": owner, "timestamp": _NO_TIME}
    return {"mkdir": made | _mode(mount.mode)}


def _mkfile(file: InlineFile) -> _Object:
    data: _Object = {"data": base64.b64encode(file.data).decode()} if file.data else {}
    return {"mkfile": {"path": f"/{file.name}", "timestamp": _NO_TIME} | _mode(file.mode) | data}


def _action(action: Copy | Mkdir) -> _Object:
    if isinstance(action, Mkdir):
        made: _Object = {"path": action.path, "makeParents": True, "timestamp": _NO_TIME}
        return {"mkdir": made | _mode(action.mode) | _owner(action.owner)}
    switches: _Object = {
        "followSymlink": action.follow_symlink,
        "dirCopyContents": action.dir_copy_contents,
        "createDestPath": action.create_dest_path,
        "allowWildcard": action.allow_wildcard,
        "allowEmptyWildcard": action.allow_empty_wildcard,
        "attemptUnpackDockerCompatibility": action.unpack,
        "includePatterns": list(action.include_patterns),
        "excludePatterns": list(action.exclude_patterns),
        "requiredPaths": list(action.required_paths),
    }
    paths: _Object = {"src": action.src, "dest": action.dest, "timestamp": _NO_TIME}
    return {
        "copy": paths
        | _mode(action.mode)
        | _owner(action.owner)
        | {key: value for key, value in switches.items() if value}
    }


def _mode(mode: int | str | None) -> _Object:
    """Protobuf leaves out what is 0; -1 is the source's mode."""
    if isinstance(mode, str):
        return {"modeStr": mode}
    return {} if mode == 0 else {"mode": _SAME_MODE if mode is None else mode}


def _owner(owner: Owner | None) -> _Object:
    if owner is None:
        return {}
    made: _Object = {"user": _identity(owner.user)}
    if owner.group is not None:
        made["group"] = _identity(owner.group)
    return {"owner": made}


def _identity(who: str | int) -> _Object:
    return {"byID": who} if isinstance(who, int) else {"byName": {"name": who}}


def _source(vertex: Vertex) -> str | None:
    match vertex.op:
        case ImageSource(reference=reference):
            return f"docker-image://{reference}"
        case ContextSource(name=name):
            return f"local://{name}"
        case HttpSource(url=url):
            return url
        case GitSource():
            return _git(vertex.op)
        case FileOp() | ExecOp() | MergeOp():
            return None


def _git(op: GitSource) -> str:
    """BuildKit's identifier: `git://host/path#ref:subdir`, whatever the protocol."""
    where = op.remote.partition("://")[2] or op.remote.replace(":", "/", 1)
    fragment = f"{op.ref}:{op.subdir}" if op.subdir else op.ref
    return f"git://{where}#{fragment}" if fragment else f"git://{where}"
