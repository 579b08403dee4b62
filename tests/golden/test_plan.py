"""Plans against those of BuildKit, for the real Dockerfiles of a folder beside the repository.

`FIREKILN_GOLDEN` names the folder; else `../shared/golden` beside the checkout. Without it the tests skip.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from firekiln.build.plan import PlanOptions, plan, plan_to_json
from firekiln.dockerfile.convert import parse_dockerfile
from firekiln.errors import DockerfileError
from firekiln.oci.config import Image
from firekiln.oci.platform import Platform

_FOLDER = Path(os.environ.get("FIREKILN_GOLDEN") or Path(__file__).parents[2] / ".." / "shared" / "golden")
_FILE = _FOLDER / "dockerfiles.jsonl"
_PLATFORM = Platform.parse("linux/amd64")

pytestmark = pytest.mark.skipif(not _FILE.exists(), reason="no golden folder: set FIREKILN_GOLDEN")


def rows() -> list[dict[str, Any]]:
    if not _FILE.exists():
        return []
    with _FILE.open() as lines:
        return [json.loads(line) for line in lines]


ROWS = rows()


def any_image(reference: str, platform: Platform) -> Image:
    del reference
    return Image(platform=platform, diff_ids=("sha256:" + "0" * 64,))


def planned(row: dict[str, Any]) -> dict[str, Any]:
    dockerfile = parse_dockerfile(row["text"], file="Dockerfile")
    return plan_to_json(plan(dockerfile, PlanOptions(platform=_PLATFORM, build_platform=_PLATFORM), any_image))


def unordered(items: list[Any]) -> list[str]:
    """BuildKit walks a file operation's inputs in the random order of a Go map: only the set is its answer."""
    return sorted(json.dumps(item, sort_keys=True) for item in items)


@pytest.mark.parametrize("row", [row for row in ROWS if row["error"] is None], ids=lambda row: row["name"])
def test_a_real_dockerfile_has_buildkits_plan(row):
    made = planned(row)
    assert made["config"] == row["config"]
    assert unordered(made["runs"]) == unordered(row["runs"])
    assert unordered(made["sources"]) == unordered(row["sources"])
    assert unordered(made["files"]) == unordered(row["files"])


@pytest.mark.parametrize("row", [row for row in ROWS if row["error"] is not None], ids=lambda row: row["name"])
def test_what_buildkit_refuses_is_refused_on_its_line(row):
    with pytest.raises(DockerfileError) as caught:
        planned(row)
    line = re.match(r"dockerfile parse error on line (\d+)", row["error"])
    if line is not None:
        assert caught.value.location is not None
        assert caught.value.location.start <= int(line[1]) <= caught.value.location.end


def test_planning_takes_less_than_five_milliseconds_a_file():
    parsed = [parse_dockerfile(row["text"], file="Dockerfile") for row in ROWS if row["error"] is None]
    options = PlanOptions(platform=_PLATFORM, build_platform=_PLATFORM)
    begun = time.process_time()
    for dockerfile in parsed:
        plan(dockerfile, options, any_image)
    assert (time.process_time() - begun) / len(parsed) < 0.005
