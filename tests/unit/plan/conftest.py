"""`made` plans a Dockerfile's text as a build would: every image exists, with an empty config unless one is given."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pytest

from firekiln.build.graph import Plan
from firekiln.build.plan import PlanOptions, plan
from firekiln.dockerfile.convert import parse_dockerfile
from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform

AMD64 = Platform.parse("linux/amd64")
DIFF_ID = "sha256:" + "1" * 64


class Bases:
    """Base configs by reference, and which were asked for."""

    def __init__(self, configs: Mapping[str, ImageConfig]) -> None:
        self.configs = configs
        self.asked: list[tuple[str, Platform]] = []

    def __call__(self, reference: str, platform: Platform) -> Image:
        self.asked.append((reference, platform))
        config = self.configs.get(reference, ImageConfig())
        return Image(platform=platform, config=config, diff_ids=(DIFF_ID,))


class Maker:
    def __init__(self) -> None:
        self.bases = Bases({})

    def __call__(
        self, text: str, *, bases: Mapping[str, ImageConfig] | None = None, dedent: bool = True, **options: Any
    ) -> Plan:
        self.bases = Bases(bases or {})
        dockerfile = parse_dockerfile(textwrap.dedent(text).lstrip("\n") if dedent else text, file="Dockerfile")
        options.setdefault("build_platform", AMD64)
        return plan(dockerfile, PlanOptions(**options), self.bases)


@pytest.fixture
def made() -> Maker:
    return Maker()
