"""RUN steps in machines: the Runner protocol of `build/runner.py`, each step on a kernel of its own."""

from firekiln.machine.isolation.runner import VmRunner

__all__ = ["VmRunner"]
