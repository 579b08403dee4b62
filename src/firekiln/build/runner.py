"""What the solver asks of a place where RUN steps execute. `sandbox` fulfils it with namespaces, `machine` with a VM.

The facade `firekiln.api` wires one of them to the solver, so that `build` knows neither's code; the values that pass
between them are `sandbox/step.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event
from typing import Protocol, Self

from firekiln.rootfs.tree import Tree
from firekiln.sandbox.step import Outcome, Output, Step


class Runner(Protocol):
    """Runs steps. Leaving the context releases everything: processes, mounts, folders, whatever happened."""

    @property
    def caches(self) -> str:
        """What tells its folders of caches from those that another kind of Runner makes; may be empty."""
        ...

    def run(self, step: Step, *, output: Output, cancel: Event) -> AbstractContextManager[Outcome]:
        """Run `step` to its end, streaming its output. SandboxError or MachineError where it cannot be started."""
        ...

    def furnish(self, folder: Path, *, mode: int, uid: int, gid: int, tree: Tree | None) -> None:
        """Give an empty folder the mode and owner that steps are to see, or the content and all of `tree`.

        SandboxError, OSError where that can't be.
        """
        ...

    def supports(self, networks: Sequence[str]) -> bool:
        """Whether steps may ask for these networks here."""
        ...

    def advice(self, step: Step, said: bytes) -> str | None:
        """A hint for a step that failed, having written `said` at last; None for most."""
        ...


class CloseableRunner(Runner, Protocol):
    """A Runner that ends with its own context."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...
