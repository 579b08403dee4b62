"""RUN steps in Linux namespaces.

Imports are put off until a name is used: the spawner's start would wait for every module that it does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firekiln.sandbox.runner import NamespaceRunner

__all__ = ["NamespaceRunner"]


def __getattr__(name: str) -> Any:
    if name == "NamespaceRunner":
        from firekiln.sandbox.runner import NamespaceRunner  # noqa: PLC0415 - put off, see above

        return NamespaceRunner
    raise AttributeError(name)
