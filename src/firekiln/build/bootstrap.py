"""Make a base image by its distribution's recipe: what `FROM debian:…` falls back to without a registry.

Which there are `recipes` says; `mmdebstrap.py` sets up packages, `rootarchive.py` takes archives of whole root file
systems.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from firekiln.build.recipes import Distribution, Mmdebstrap, Recipe, RootArchive, distributions, find, recipes_folder
from firekiln.errors import BuildError, ImageNotFoundError, StoreError
from firekiln.oci.config import History, Image, ImageConfig
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.rootfs.tree import Tree
from firekiln.sandbox.confine import confined
from firekiln.sandbox.subids import is_host_root, own_map
from firekiln.store.durable import store_errors

_NEEDED_SPACE: Final = 640 << 20
"""Bytes: the lists of packages, the packages, the system that they are set up in, its archive, and its layer."""

Progress = Callable[[str], None]


def is_known(reference: str) -> bool:
    """Whether there is a recipe for this reference."""
    return find(reference, distributions()) is not None


def unknown(reference: str) -> ImageNotFoundError:
    """That there is no recipe, and which there are."""
    name = Reference.parse(reference).tagged()
    known = distributions()
    same = [item for item in known if item.repository == name.name]
    if same:
        tags = ", ".join(dict.fromkeys(tag for item in same for tag in item.tags))
        inits = ", ".join(dict.fromkeys(init for item in same for init in item.inits))
        hint = f"{same[0].familiar} has the tags {tags}" + (f", and the inits {inits}" if inits else "")
    else:
        hint = f"there are recipes for {', '.join(dict.fromkeys(item.familiar for item in known))}"
    return ImageNotFoundError(
        f"{reference}: no recipe makes this base image",
        hint=f"{hint}; `firekiln base ls` lists them, and {recipes_folder()}/*.toml may add to them",
    )


@contextmanager
def bootstrap(
    reference: str, platform: Platform, workdir: Path, progress: Progress = lambda _: None
) -> Iterator[tuple[Tree, Image]]:
    """The base system that `reference` names, as one layer's Tree and a config without layers.

    Its sources lie in a file below `workdir` (`_NEEDED_SPACE` must be free there) and die with the context. `progress`
    gets lines for a log. ImageNotFoundError where there is no recipe, UsageError for a malformed one,
    MissingProgramError where the host lacks a program or a keyring, BuildError where something cannot be fetched,
    checked or installed, SandboxError where an ordinary user can have no user namespace, StoreError where there is no
    room for it.
    """
    recipe = find(reference, distributions())
    if recipe is None:
        raise unknown(reference)
    architecture = _architecture(recipe.distribution, platform)
    with _method(recipe, architecture, reference, workdir, progress) as (tree, epoch):
        yield tree, image(recipe, platform, epoch=epoch)


@contextmanager
def _method(
    recipe: Recipe, architecture: str, reference: str, workdir: Path, progress: Progress
) -> Iterator[tuple[Tree, int]]:
    """The recipe's Tree, and the seconds that it bears as its date."""
    method = recipe.distribution.method
    match method:
        case Mmdebstrap():
            from firekiln.build import mmdebstrap  # noqa: PLC0415 - one method is wanted

            archive = mmdebstrap.host_archive(recipe.distribution, method, architecture)
            mmdebstrap.check_program()
            _check_room(reference, workdir)
            ids = None if is_host_root() else own_map()
            with _folder(workdir) as folder:
                system = mmdebstrap.System(recipe=recipe, method=method, architecture=architecture, archive=archive)
                yield mmdebstrap.installed(system, folder, ids, epoch=given_epoch(), progress=progress)
        case RootArchive():
            from firekiln.build import rootarchive  # noqa: PLC0415 - as above

            with (
                _folder(workdir) as folder,
                rootarchive.fetched(recipe, method, architecture, folder, progress) as (tree, made),
            ):
                epoch = given_epoch()
                yield tree, made if epoch is None else epoch


def given_epoch() -> int | None:
    """SOURCE_DATE_EPOCH, seconds. BuildError where it is none."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given and not given.isdecimal():
        raise BuildError(f"SOURCE_DATE_EPOCH is no number of seconds: {given}")
    return int(given) if given else None


def image(recipe: Recipe, platform: Platform, *, epoch: int) -> Image:
    """The image's config. Its layer is not in it yet."""
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    distribution = recipe.distribution
    kind = f"{distribution.system}'s minimal base{', slim' if recipe.slim else ''}"
    made_by = f"firekiln base create {distribution.familiar}:{recipe.tag}"
    return Image(
        platform=platform,
        config=ImageConfig(cmd=("/sbin/init",) if recipe.init else distribution.cmd, env=distribution.env),
        history=(History(created=created, created_by=made_by, comment=kind),),
        created=created,
    )


@contextmanager
def _folder(workdir: Path) -> Iterator[Path]:
    """A new folder below `workdir`, removed in the end with files of other ids that a program that was killed left."""
    ids = None if is_host_root() else own_map()
    folder = Path(tempfile.mkdtemp(prefix="bootstrap-", dir=workdir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if ids is not None and folder.exists():
            subprocess.run(confined(["rm", "-rf", "--", str(folder)], ids), check=False)


def _architecture(distribution: Distribution, platform: Platform) -> str:
    architecture = distribution.architecture(platform)
    if architecture is None:
        raise BuildError(f"{distribution.system} has no packages for {platform}")
    host = Platform.host()
    runs = {host.architecture, "386" if host.architecture == "amd64" else ""}
    if platform.architecture not in runs and not list(Path("/proc/sys/fs/binfmt_misc").glob("qemu-*")):
        raise BuildError(
            f"cannot set up packages for {platform} on {host}",
            hint="apt-get install qemu-user-static lets this host run them",
        )
    return architecture


def _check_room(reference: str, workdir: Path) -> None:
    """What would fail late, or never: apt waits for ever where a list of packages does not fit on the disk."""
    name = Reference.parse(reference).familiar
    with store_errors(workdir, "cannot write to"):
        free = shutil.disk_usage(workdir).free
    if free < _NEEDED_SPACE:
        raise StoreError(
            f"bootstrapping {name} needs {_NEEDED_SPACE >> 20} MiB free in {workdir}: it has {free >> 20}",
            hint="free some space, or put the store elsewhere with --root DIR or FIREKILN_ROOT",
        )
