"""The image that a solved plan makes: its config document, with history as BuildKit writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from firekiln.build.graph import FileOp, Plan, Vertex
from firekiln.build.solver import Solved
from firekiln.oci.config import History, Image, Json

COMMENT = "buildkit.dockerfile.v0"
"""What readers of images (dive, trivy) know the form of `created_by` by."""

INLINE_CACHE = "dev.firekiln.cache.v1"
"""The key of an image's config for what is known of the steps that made it (see `cachefile`)."""
_CACHES = frozenset({INLINE_CACHE, "moby.buildkit.cache.v0"})


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, as the image config has its times: with microseconds where there are any."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")


def compose(plan: Plan, solved: Mapping[Vertex, Solved], *, now: str) -> Image:
    """The document. `now` (RFC 3339) is used where nothing else tells a time: an image that has no layer.

    Its times are those of its steps' results, so that an unchanged rebuild makes the same image.
    """
    digests = solved[plan.target].digests if plan.target is not None else ()
    epoch = None if plan.source_date_epoch is None else timestamp(plan.source_date_epoch)
    history = _history(plan, solved, epoch, now)
    return Image(
        platform=plan.platform,
        config=plan.config,
        diff_ids=digests,
        history=history,
        created=epoch or (history[-1].created if history else now),
        author=plan.author,
        extra=_kept(plan.base.extra) if plan.base is not None else {},
    )


def _kept(extra: Mapping[str, Json]) -> dict[str, Json]:
    """A base's further keys, without the cache that it may hold: that is of how the base was made."""
    return {name: value for name, value in extra.items() if name not in _CACHES}


def _history(plan: Plan, solved: Mapping[Vertex, Solved], epoch: str | None, now: str) -> tuple[History, ...]:
    """The base image's lines, then the plan's. A line without a layer bears the time of the layer below it."""
    lines = list(plan.base.history) if plan.base is not None else []
    before = next((line.created for line in reversed(lines) if line.created), None)
    made: list[History] = []
    for step in plan.history:
        result = solved.get(step.vertex) if step.vertex is not None else None
        if result is not None and result.created:
            before = result.created
        empty = step.vertex is None or not adds_layer(step.vertex, solved)
        made.append(History(created_by=step.created_by, created=epoch or before, comment=COMMENT, empty_layer=empty))
    # Lines above the first layer of an image from scratch have no layer below them: they take the next one's time.
    first = next((line.created for line in made if line.created), now)
    return (*lines, *(line if line.created else replace(line, created=first) for line in made))


def adds_layer(vertex: Vertex, solved: Mapping[Vertex, Solved]) -> bool:
    """Whether a step's result has a layer of its own: one that changed nothing has none."""
    source = vertex.inputs[0] if vertex.inputs else None
    standalone = source is None or (isinstance(vertex.op, FileOp) and vertex.op.link)
    below = () if standalone or source is None else solved[source].digests
    return len(solved[vertex].digests) > len(below)
