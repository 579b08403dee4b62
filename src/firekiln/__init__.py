"""firekiln: a Dockerfile goes in, a microVM that boots and runs it comes out.

`firekiln.build(...)` and the rest of the facade are imported when they are first used: `import firekiln` is light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from firekiln.errors import FirekilnError
from firekiln.version import __version__

if TYPE_CHECKING:
    from firekiln.api import BuildResult, build

__all__ = ["BuildResult", "FirekilnError", "__version__", "build"]

_FACADE = frozenset(__all__) - {"FirekilnError", "__version__"}


def __getattr__(name: str) -> Any:
    if name not in _FACADE:
        raise AttributeError(f"module 'firekiln' has no attribute {name!r}")
    from firekiln import api  # noqa: PLC0415 - that's the point

    return getattr(api, name)
