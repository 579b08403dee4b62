"""Whether steps can be isolated here: by root, or by an ordinary user with subordinate ids. Commands of such a user."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from firekiln.errors import SandboxError
from firekiln.sandbox.subids import own_map

AS_USER = Path(__file__).parent.parent / "scripts/as-user"
USER = 64123
"""The id of `scripts/as-user`."""
BIN = Path(__file__).parent.parent / ".venv/bin"


def _reason() -> str | None:
    if os.geteuid() == 0:
        return None
    try:
        own_map()
    except SandboxError as error:
        return error.message
    return None


needed = pytest.mark.skipif(_reason() is not None, reason=f"no root, and {_reason()}")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@contextmanager
def home() -> Iterator[Path]:
    """A folder for `as_user`, which may hold files of any owner."""
    folder = Path(tempfile.mkdtemp(prefix="firekiln-user-", dir="/tmp"))
    os.chown(folder, USER, USER)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def as_user(folder: Path, *argv, timeout=120, **options) -> subprocess.CompletedProcess:
    """Run a command as an ordinary user, whose home `folder` is, and whose it becomes."""
    argv = [str(AS_USER), "--home", str(folder), *map(str, argv)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout, **options)
