"""Root file systems that a distribution offers as archives, such as Alpine's: fetched, checked, with an init put in.

An archive is known to be the right one by a digest in the recipe, by one in the distribution's own list of releases
(which comes by TLS, or from this host), or by a signature that gpgv holds to a keyring; where a recipe names several,
all have to be right. It is unpacked into a Tree, never on the host.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

from firekiln.build.fetch import fetch
from firekiln.build.graph import HttpSource
from firekiln.build.ops.unpack import unpacked_file
from firekiln.build.recipes import Recipe, RootArchive
from firekiln.errors import BuildError, MissingProgramError
from firekiln.rootfs import erofs
from firekiln.rootfs.merge import merge
from firekiln.rootfs.tree import File, Tree

_LARGEST_LIST: Final = 4 << 20
Progress = Callable[[str], None]


@contextmanager
def fetched(
    recipe: Recipe, method: RootArchive, architecture: str, folder: Path, progress: Progress
) -> Iterator[tuple[Tree, int]]:
    """The recipe's Tree and its date in seconds. Files' content lies in `folder`, and dies with the context.

    BuildError where the archive cannot be fetched, is not the right one, or the init cannot be installed.
    """
    url, checksum = _address(recipe, method, architecture, folder)
    progress(f"fetching {recipe.distribution.system} {recipe.release} ({architecture}) from {url}")
    file = _file(url, folder, checksum=checksum)
    spool = folder / "root.archive"
    _write(file, spool)
    if method.keyring:
        _check_signature(url, method, spool, folder)
    with ExitStack() as held:
        tree = unpacked_file(spool, folder)
        if tree is None:
            raise BuildError(f"{url}: this is no archive")
        if recipe.init:
            tree = held.enter_context(_with_init(tree, recipe, method, folder, progress))
        yield tree, file.meta.mtime_ns // 10**9


def newest(text: str, flavor: str) -> tuple[str, str] | None:
    """File and sha256 of the record for `flavor` in Alpine's list of releases; None where there is none.

    The list is YAML of one shape: records that begin with a line `-`, then lines `  key: value`.
    """
    for record in text.split("\n-"):
        rows = (row.strip().partition(":") for row in record.splitlines())
        fields: Mapping[str, str] = {name: value.strip().strip("\"'") for name, colon, value in rows if colon}
        if fields.get("flavor") == flavor and fields.get("file") and fields.get("sha256"):
            return fields["file"], fields["sha256"]
    return None


def _address(recipe: Recipe, method: RootArchive, architecture: str, folder: Path) -> tuple[str, str | None]:
    """Where the archive is, and its digest where that is known beforehand."""
    mirror = os.environ.get(recipe.distribution.variable) or method.mirror
    names = {"{mirror}": mirror.rstrip("/"), "{release}": recipe.release, "{arch}": architecture}

    def filled(text: str) -> str:
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    if method.url:
        digest = method.sha256.get(architecture) or method.sha256.get("")
        if digest is None and not method.keyring:
            raise BuildError(f"recipe {recipe.distribution.file}: archive.sha256 has none for {architecture}")
        return filled(method.url), f"sha256:{digest}" if digest else None
    url = filled(method.releases)
    listed = _file(url, folder)
    if listed.size > _LARGEST_LIST:
        raise BuildError(f"{url}: {listed.size} bytes are too many for a list of releases")
    found = newest(listed.read().decode(errors="replace"), method.flavor)
    if found is None:
        raise BuildError(f"{url}: no {method.flavor} is in this list of releases")
    return urljoin(url, found[0]), f"sha256:{found[1]}"


def _file(url: str, folder: Path, *, checksum: str | None = None) -> File:
    (node,) = fetch(HttpSource(url=url, checksum=checksum), folder=folder).children.values()
    assert isinstance(node, File)
    return node


def _write(file: File, path: Path) -> None:
    with path.open("xb") as written:
        for chunk in file.chunks():
            written.write(chunk)


def _check_signature(url: str, method: RootArchive, archive: Path, folder: Path) -> None:
    if not Path(method.keyring).is_file():
        raise MissingProgramError(f"the recipe's keyring is not at {method.keyring}")
    signature = folder / "signature"
    _write(_file(url + method.signature, folder), signature)
    argv = ["gpgv", "--keyring", method.keyring, "--", str(signature), str(archive)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd=folder)
    except FileNotFoundError as error:
        raise MissingProgramError("gpgv is not on this host", hint="apt-get install gpgv") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise BuildError(f"{url}: the signature is not good: {said[-1] if said else 'gpgv says no more'}")


@contextmanager
def _with_init(tree: Tree, recipe: Recipe, method: RootArchive, folder: Path, progress: Progress) -> Iterator[Tree]:
    """The Tree after the recipe's own command has installed the init's packages in it, as a step of a build."""
    from firekiln.sandbox import NamespaceRunner  # noqa: PLC0415 - who wants no init runs nothing
    from firekiln.sandbox.step import Step  # noqa: PLC0415 - ditto

    packages = recipe.distribution.inits[recipe.init]
    if not method.install:
        raise BuildError(f"recipe {recipe.distribution.file}: archive.install is missing: what installs {packages[0]}?")
    layer = folder / "layer"
    erofs.write(tree, layer)

    def output(_descriptor: int, data: bytes) -> None:
        for line in data.decode(errors="replace").splitlines():
            progress(line)

    step = Step(layers=(layer,), args=(*method.install, *packages), env=recipe.distribution.env, cwd="/")
    with NamespaceRunner(folder) as runner, runner.run(step, output=output, cancel=threading.Event()) as outcome:
        if outcome.status != 0:
            raise BuildError(f"{recipe.reference}: {' '.join(step.args)} ended with {outcome.status}")
        yield merge([erofs.read(layer), outcome.diff])
