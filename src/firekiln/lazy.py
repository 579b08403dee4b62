"""Modules of the standard library that others import, and that are seldom used: loaded when somebody does."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

TYPE_CHECKING = False  # typing's; what is imported here is to be little

if TYPE_CHECKING:
    from typing import Any


def load_lazily(name: str) -> None:
    """Have `import NAME` cost nothing until something of the module is used. One that is loaded already is let be.

    For programs of one thread. The standard library's own way, `importlib.util.LazyLoader`, loads the module at the
    next `import` of it, until Python 3.12.
    """
    if name not in sys.modules:
        sys.modules[name] = _Unloaded(name)


class _Unloaded(ModuleType):
    """Stands for a module, and passes on what that has, for the sake of those who imported this in its place."""

    def __getattr__(self, attribute: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), attribute)
