"""Small images for steps: one static busybox, no distribution."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import isolation
from firekiln.rootfs import erofs
from firekiln.rootfs.tree import Directory, Tree, walk
from firekiln.sandbox import NamespaceRunner
from firekiln.sandbox.step import Step
from systems import system


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.rootless)
            item.add_marker(isolation.needed)


@pytest.fixture(scope="session")
def busybox() -> bytes:
    program = shutil.which("busybox")
    if program is None or subprocess.run(["busybox", "true"], check=False).returncode:
        pytest.skip("needs busybox-static")
    return Path(program).read_bytes()


@pytest.fixture(scope="session")
def layer(tmp_path_factory):
    """Writes a Tree as a layer."""
    folder_of_layers = tmp_path_factory.mktemp("layers")
    count = iter(range(10**6))

    def write(tree: Tree) -> Path:
        path = folder_of_layers / f"{next(count)}.erofs"
        erofs.write(tree, path)
        return path

    return write


@pytest.fixture(scope="session")
def base(busybox, layer) -> Path:
    return layer(system(busybox))


@dataclass
class Result:
    status: int
    out: str
    err: str
    changed: dict[str, str] = field(default_factory=dict)
    """Paths of the diff, each with its node's kind."""
    contents: dict[str, bytes] = field(default_factory=dict)
    diff: Directory | None = None


@pytest.fixture
def runner(tmp_path) -> Iterator[NamespaceRunner]:
    with NamespaceRunner(tmp_path) as made:
        yield made


@pytest.fixture
def run(runner, base):
    """Runs a shell line, or `args`, on the small system or on `layers`."""

    def call(line: str = "", *, args=None, layers=None, env=(), cwd="/", on=runner, cancel=None, **fields) -> Result:
        step = Step(
            layers=(base,) if layers is None else tuple(layers),
            args=tuple(args) if args else ("/bin/sh", "-c", line),
            env=tuple(env),
            cwd=cwd,
            **fields,
        )
        written = {1: b"", 2: b""}

        def output(fd: int, data: bytes) -> None:
            written[fd] += data

        with on.run(step, output=output, cancel=cancel or threading.Event()) as outcome:
            nodes = [(os.fsdecode(path), node) for path, node in walk(outcome.diff)]
            changed = {path: type(node).__name__ for path, node in nodes}
            contents = {path: node.read() for path, node in nodes if type(node).__name__ == "File"}
        out, err = (written[fd].decode() for fd in (1, 2))
        return Result(outcome.status, out, err, changed, contents, outcome.diff)

    return call
