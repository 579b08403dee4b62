"""Upstream Dockerfiles, as their projects wrote them, are read, checked and planned without a word changed.

`FIREKILN_UPSTREAM` names the folder; else `../shared/upstream` beside the checkout. Without it the tests skip.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from firekiln.build.check import any_image, check
from firekiln.build.plan import PlanOptions, plan
from firekiln.build.plan.outline import outline
from firekiln.dockerfile.convert import parse_dockerfile
from firekiln.dockerfile.excerpt import excerpt
from firekiln.dockerfile.ignore import read_ignore
from firekiln.dockerfile.parser import parse_syntax
from firekiln.dockerfile.printing import print_syntax
from firekiln.oci.platform import Platform

_FOLDER = Path(os.environ.get("FIREKILN_UPSTREAM") or Path(__file__).parents[2] / ".." / "shared" / "upstream")
_OPTIONS = PlanOptions(build_platform=Platform.parse("linux/amd64"))

pytestmark = pytest.mark.skipif(not _FOLDER.exists(), reason="no upstream folder: set FIREKILN_UPSTREAM")

DOCKERFILES = sorted(path for path in _FOLDER.rglob("*Dockerfile*") if path.is_file())
IGNORES = sorted(_FOLDER.rglob("dockerignore*"))


def name(path):
    return str(path.relative_to(_FOLDER))


@pytest.mark.parametrize("path", DOCKERFILES, ids=name)
def test_an_upstream_dockerfile_is_read_checked_and_planned(path):
    text = path.read_bytes()
    result = check(text, _OPTIONS, file=path.name)
    assert result.error is None
    assert all(excerpt(result.source, warning.location, span=warning.span) for warning in result.warnings)
    dockerfile = parse_dockerfile(text)
    for stage in dockerfile.stages:
        assert plan(dockerfile, PlanOptions(target=str(stage.index)), any_image).vertices
        assert outline(dockerfile, PlanOptions(target=str(stage.index)), any_image).targets
    syntax = parse_syntax(text)
    again = parse_syntax(print_syntax(syntax))
    assert [(node.keyword, node.args) for node in again.nodes] == [(node.keyword, node.args) for node in syntax.nodes]


@pytest.mark.parametrize("path", IGNORES, ids=name)
def test_an_upstream_ignore_file_is_read(path):
    assert read_ignore(path.read_text()) is not None
