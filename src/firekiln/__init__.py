"""firekiln: a Dockerfile goes in, a microVM that boots and runs it comes out.

`firekiln.build(...)` and the rest of the facade, `firekiln.api`, are imported when they are first used: `import
firekiln` is light.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from firekiln.version import __version__

TYPE_CHECKING = False  # typing's, which takes 5 ms to import; type checkers know it by its name

if TYPE_CHECKING:
    from typing import Any

    from firekiln.api import BuildResult, build, export, pull, push, run, sbom
    from firekiln.errors import FirekilnError

__all__ = ["BuildResult", "FirekilnError", "__version__", "build", "export", "pull", "push", "run", "sbom"]


class _Callable(ModuleType):
    """`firekiln.build` is the engine's package and the facade's function: the package can be called."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from firekiln import api  # noqa: PLC0415 - that's the point

        return api.build(*args, **options)


class _Package(ModuleType):
    """The package firekiln. The import system sets a sub-package as an attribute of it, whoever imports it first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "build" and isinstance(value, ModuleType):
            value.__class__ = _Callable
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "build":
        return importlib.import_module("firekiln.build")
    if name not in __all__:
        raise AttributeError(f"module 'firekiln' has no attribute {name!r}")
    home = importlib.import_module("firekiln.errors" if name == "FirekilnError" else "firekiln.api")
    return getattr(home, name)
