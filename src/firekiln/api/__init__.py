"""The facade: `firekiln.build(...)` and its like. It wires the engine to a store, to sources and to a Runner.

Nothing is global: each call opens what it needs and releases it, also when it fails. Each name is imported when it is
first used, so that who exports an image loads nothing of what builds one.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # typing's, which takes 5 ms to import; type checkers know it by its name

if TYPE_CHECKING:
    from typing import Any

    from firekiln.api.archives import ArchiveFormat, import_image, load, load_into_engine, save
    from firekiln.api.bases import create_base
    from firekiln.api.boms import installed_packages, sbom, sbom_statement
    from firekiln.api.builds import Isolation, StageEngine, base_configs, build, check
    from firekiln.api.exports import export
    from firekiln.api.host import HostReport, examine_host
    from firekiln.api.images import BuildResult, Pull, ensure_image, parse_platform
    from firekiln.api.machines import run
    from firekiln.api.registries import credentials, login, pull, push, push_container_disk
    from firekiln.api.steps import clean

__all__ = [
    "ArchiveFormat",
    "BuildResult",
    "HostReport",
    "Isolation",
    "Pull",
    "StageEngine",
    "base_configs",
    "build",
    "check",
    "clean",
    "create_base",
    "credentials",
    "ensure_image",
    "examine_host",
    "export",
    "import_image",
    "installed_packages",
    "load",
    "load_into_engine",
    "login",
    "parse_platform",
    "pull",
    "push",
    "push_container_disk",
    "run",
    "save",
    "sbom",
    "sbom_statement",
]

_HOMES = {
    "archives": ("ArchiveFormat", "import_image", "load", "load_into_engine", "save"),
    "bases": ("create_base",),
    "boms": ("installed_packages", "sbom", "sbom_statement"),
    "builds": ("Isolation", "StageEngine", "base_configs", "build", "check"),
    "exports": ("export",),
    "host": ("HostReport", "examine_host"),
    "images": ("BuildResult", "Pull", "ensure_image", "parse_platform"),
    "machines": ("run",),
    "registries": ("credentials", "login", "pull", "push", "push_container_disk"),
    "steps": ("clean",),
}
"""The modules of all names. None bears the name of a function, which it would hide."""


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"firekiln.api.{home}"), name)
    globals()[name] = found
    return found
