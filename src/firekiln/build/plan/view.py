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
        "files": [action for vertex in plan.vertices for action in _files(vertex)],
        "sources": [source for vertex in plan.vertices if (source := _source(vertex)) is not None],
    }


def _run(op: ExecOp) -> _Object:
    return {"args": list(op.args), "cwd": op.cwd, "env": list(op.env), "user": op.user or ""}


def _files(vertex: Vertex) -> list[Json]:
    if isinstance(vertex.op, FileOp):
        inline = [_mkfile(action.source) for action in vertex.op.actions if isinstance(action, Copy)]
        return [*filter(None, inline), *(_action(action) for action in vertex.op.actions)]
    if isinstance(vertex.op, ExecOp):
        return _mount_files(vertex.op)
    return []


def _mount_files(op: ExecOp) -> list[Json]:
    """BuildKit makes a script's folder and a cache's first content by file operations of their own."""
    made: list[Json] = []
    for mount in op.mounts:
        if isinstance(mount, BindMount):
            made += [_mkfile(file) for file in mount.files]
        elif isinstance(mount, CacheMount) and (mount.mode, mount.uid, mount.gid) != (0o755, 0, 0):
            owner: _Object = {"user": {"byID": mount.uid}, "group": {"byID": mount.gid}}
            made.append({"mkdir": {"path": "/cache", "mode": mount.mode, "owner": owner, "timestamp": _NO_TIME}})
    return made


def _mkfile(source: int | InlineFile) -> _Object | None:
    if isinstance(source, int):
        return None
    data = base64.b64encode(source.data).decode()
    content: _Object = {"path": f"/{source.name}", "mode": source.mode, "timestamp": _NO_TIME}
    return {"mkfile": content | ({"data": data} if data else {})}


def _action(action: Copy | Mkdir) -> _Object:
    if isinstance(action, Mkdir):
        made: _Object = {"path": action.path, "mode": action.mode, "makeParents": True, "timestamp": _NO_TIME}
        return {"mkdir": made | _owner(action.owner)}
    mode: _Object = {"modeStr": action.mode} if isinstance(action.mode, str) else {"mode": _number(action.mode)}
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
    return {"copy": paths | mode | _owner(action.owner) | {key: value for key, value in switches.items() if value}}


def _number(mode: int | None) -> int:
    return _SAME_MODE if mode is None else mode


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
