"""Provenance: how an image came about, as an in-toto statement with SLSA's predicate.

in-toto Statement v1 (in-toto/attestation, spec/v1/statement.md), SLSA Provenance v1 (slsa.dev/spec/v1.0/provenance).
`externalParameters` has BuildKit's shape (docs/attestations/slsa-definitions.md). Nothing of it tells when or by whom
the build was asked for: an unchanged rebuild makes the same image, and says the same of it. No path of the host, no
secret's value and no proxy stands in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

from firekiln.build.graph import ContextSource, GitSource, HttpSource, ImageSource, Plan, Vertex
from firekiln.build.image import adds_layer
from firekiln.build.ops.execute import ExecOptions
from firekiln.build.plan import PlanOptions
from firekiln.build.solver import Solved
from firekiln.build.urls import without_password
from firekiln.oci.attestation import STATEMENT_TYPE, digest_set
from firekiln.oci.config import Json
from firekiln.oci.manifest import encode
from firekiln.oci.reference import Reference
from firekiln.store import StoredImage
from firekiln.values import dataclass
from firekiln.version import __version__

Mode: TypeAlias = Literal["max", "min", "none"]
"""max: everything; min: without the values of arguments and without the steps, as BuildKit's; none: nothing at all."""

PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:firekiln:dockerfile:v1"
_BUILDER: Final = "urn:firekiln:builder"
_UNSAID = frozenset(
    f"{scheme}_proxy" for scheme in ("http", "https", "ftp", "no", "all")
)  # their values may hold passwords, and they are in no key

Contents: TypeAlias = Mapping[Vertex, set[tuple[str, str]]]
"""By source that its content alone identifies: the paths that were read of it, and the digests of what lay there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What was asked for. `file` is the Dockerfile's name, `dockerfile` its text."""

    dockerfile: bytes
    file: str
    options: PlanOptions
    execution: ExecOptions
    name: str = ""


def statement(
    definition: Definition,
    made: Plan,
    solved: Mapping[Vertex, Solved],
    *,
    contents: Contents,
    image_of: Callable[[ImageSource], StoredImage],
    mode: Mode,
    finished: str,
    digest: str,
) -> bytes:
    """The statement about the image `digest`, as canonical JSON. `finished` (RFC 3339) is when its last step ended."""
    details: dict[str, Json] = {
        "builder": {"id": _BUILDER, "version": {"firekiln": __version__}},
        "metadata": {"finishedOn": finished},
    }
    if mode == "max":
        details["byproducts"] = list(_layers(made, solved))
    return encode(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": definition.name or "_", "digest": digest_set(digest)}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": _external(definition, made, mode),
                    "internalParameters": {"platform": str(made.platform)},
                    "resolvedDependencies": [
                        found
                        for vertex in made.vertices
                        if (found := _dependency(vertex, solved, contents, image_of)) is not None
                    ],
                },
                "runDetails": details,
            },
        }
    )


def _external(definition: Definition, made: Plan, mode: Mode) -> Json:
    options, execution = definition.options, definition.execution
    said: dict[str, str] = {}
    if options.target:
        said["target"] = options.target
    if mode == "max":
        shown = {name: value for name, value in options.build_args.items() if name.lower() not in _UNSAID}
        said |= {f"build-arg:{name}": value for name, value in shown.items()}
        said |= {f"label:{name}": value for name, value in options.labels.items()}
    if execution.network != "default":
        said["force-network-mode"] = execution.network
    if execution.extra_hosts:
        said["add-hosts"] = ",".join(f"{name}={address}" for name, address in sorted(execution.extra_hosts.items()))
    request: dict[str, Json] = {"frontend": "dockerfile.v0", "args": dict(said)}
    used = sorted({vertex.op.name for vertex in made.vertices if isinstance(vertex.op, ContextSource)})
    if used:
        request["locals"] = [{"name": name} for name in used]
    if mode == "max":
        request |= {
            key: [{"id": name} for name in sorted(names)]
            for key, names in (("secrets", execution.secrets), ("ssh", execution.ssh))
            if names
        }
    text = hashlib.sha256(definition.dockerfile).hexdigest()
    return {"configSource": {"path": definition.file, "digest": {"sha256": text}}, "request": request}


def _dependency(
    vertex: Vertex,
    solved: Mapping[Vertex, Solved],
    contents: Contents,
    image_of: Callable[[ImageSource], StoredImage],
) -> Json:
    """A resource descriptor of a source; None for what is none, or was not needed."""
    match vertex.op:
        case ImageSource():
            return _image(vertex.op, image_of(vertex.op)) if vertex in solved else None
        case ContextSource(name=name):
            return _content({"name": name}, contents.get(vertex))
        case HttpSource(url=url, checksum=checksum):
            return _content({"uri": without_password(url)}, contents.get(vertex), pinned=checksum)
        case GitSource(remote=remote, ref=ref, checksum=checksum):
            place: dict[str, Json] = {"uri": f"git+{without_password(remote)}" + (f"#{ref}" if ref else "")}
            return {**place, "digest": {"sha1": checksum}} if checksum else _content(place, contents.get(vertex))
        case _:
            return None


def _image(source: ImageSource, image: StoredImage) -> Json:
    """A base by package URL (purl-spec, type `docker`); its digest is the registry's where one is known."""
    digest = image.digest
    if "://" in source.reference:  # a layout, whose path is the host's business
        return {"name": source.reference.partition("://")[0], "digest": digest_set(digest)}
    reference = Reference.parse(source.reference)
    known = dict(item.split("@", 1) for item in image.repo_digests)
    plain = Reference(registry=reference.registry, repository=reference.repository).familiar
    tag = f"@{reference.tag}" if reference.tag else ""
    platform = str(source.platform).replace("/", "%2F")  # all else in references and platforms stands for itself
    return {
        "uri": f"pkg:docker/{plain}{tag}?platform={platform}",
        "digest": digest_set(reference.digest or known.get(reference.name, digest)),
    }


def _content(place: dict[str, Json], read: set[tuple[str, str]] | None, *, pinned: str | None = None) -> Json:
    """A source of files: its digest is of the lines `PATH DIGEST` of what was read; `pinned` is the text's own."""
    if pinned is not None:
        return {**place, "digest": digest_set(pinned)}
    if not read:
        return None
    lines = "".join(f"{path} {digest}\n" for path, digest in sorted(read))
    whole = hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
    parts: list[Json] = [{"path": path, "digest": digest_set(digest)} for path, digest in sorted(read)]
    return {**place, "digest": {"sha256": whole}, "annotations": {"read": parts}}


def _layers(made: Plan, solved: Mapping[Vertex, Solved]) -> Iterator[Json]:
    """The layers that the build made, lowest first, each with the instruction that made it."""
    for step in made.history:
        vertex = step.vertex
        if vertex is None or vertex not in solved or not adds_layer(vertex, solved):
            continue
        about: dict[str, Json] = {"instruction": vertex.name.partition("] ")[2] or vertex.name, "stage": vertex.stage}
        if vertex.location is not None:
            about["lines"] = [vertex.location.start, vertex.location.end]
        yield {"name": "layer", "digest": digest_set(solved[vertex].digests[-1]), "annotations": about}
