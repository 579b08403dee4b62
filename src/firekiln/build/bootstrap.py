"""Make a base image of a distribution's packages, by mmdebstrap: what `FROM debian:…` falls back to without a registry.

The signatures of all that is installed are checked with Debian's keyring. The same package versions give the same Tree:
file times are clamped to the date of the suite's release file (SOURCE_DATE_EPOCH goes before), and what differs from
run to run (logs, caches, the host's own files) is taken out. mmdebstrap runs in mount and pid namespaces of its own,
so that nothing of it outlives us, whatever ends us; for an ordinary user in a user namespace too, as root of it.
"""

from __future__ import annotations

import email.utils
import os
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from firekiln.build.ops.archive import open_archive
from firekiln.build.ops.unpack import unpack
from firekiln.build.ops.upper import Made, Overlay
from firekiln.build.recipes import (
    MIRROR,
    SECURITY,
    Archive,
    Recipe,
    debian_architecture,
    find,
    finish,
    image,
    mmdebstrap_argv,
    recipes,
    sources,
)
from firekiln.errors import BuildError, ImageNotFoundError, MissingProgramError, StoreError
from firekiln.oci.config import Image
from firekiln.oci.platform import Platform
from firekiln.oci.reference import Reference
from firekiln.rootfs.tree import Directory, Extent, File, Meta, PathSource, Tree
from firekiln.sandbox.confine import confined
from firekiln.sandbox.idmap import IdMap
from firekiln.sandbox.subids import is_host_root, own_map
from firekiln.store.durable import store_errors

__all__ = ["Archive", "Recipe", "bootstrap", "host_archive", "is_known", "recipes"]

MIRROR_VARIABLE: Final = "FIREKILN_DEBIAN_MIRROR"
_KEYRINGS: Final = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
_APT_SETTINGS: Final = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::ForceIPv4")
_LAST_LINES: Final = 20
_NEEDED_SPACE: Final = 640 << 20
"""Bytes: the lists of packages, the packages, the system that they are set up in, its archive, and its layer."""
_APT_HELPER: Final = "/usr/lib/apt/apt-helper"

Progress = Callable[[str], None]


def is_known(reference: str) -> bool:
    """Whether there is a recipe for this reference."""
    return find(reference) is not None


@contextmanager
def bootstrap(
    reference: str, platform: Platform, workdir: Path, progress: Progress = lambda _: None
) -> Iterator[tuple[Tree, Image]]:
    """The base system that `reference` names, as one layer's Tree and a config without layers.

    Its sources lie in a file below `workdir` (`_NEEDED_SPACE` must be free there) and die with the context. `progress`
    gets lines for a log. ImageNotFoundError where there is no recipe, MissingProgramError where the host lacks
    mmdebstrap or the keyring, BuildError where the packages cannot be fetched, checked or installed, SandboxError where
    an ordinary user can have no user namespace, StoreError where there is no room for them.
    """
    recipe = find(reference)
    if recipe is None:
        raise ImageNotFoundError(f"{reference}: no recipe makes this image", hint="`firekiln base ls` lists them")
    architecture = _architecture(platform)
    archive = host_archive()
    _require("mmdebstrap", "mmdebstrap")
    _check_room(reference, workdir)
    ids = None if is_host_root() else own_map()
    with ExitStack() as held:
        folder = held.enter_context(_folder(workdir, ids))
        epoch = _epoch(recipe, archive, folder)
        progress(f"bootstrapping Debian {recipe.suite} ({architecture}) from {archive.mirror}")
        spool = folder / "root.tar"
        argv = mmdebstrap_argv(recipe, architecture, spool, apt_options=_apt_options(), sysfs=ids is None)
        _run(confined(argv, ids), sources(recipe, archive, keyring=str(archive.keyring)), folder, epoch, progress)
        tree = _tree(spool)
        finish(tree, recipe, epoch=epoch)
        yield tree, image(recipe, platform, epoch=epoch)


@contextmanager
def _folder(workdir: Path, ids: IdMap | None) -> Iterator[Path]:
    """A new folder below `workdir`, removed in the end with files of `ids` that a mmdebstrap that was killed left."""
    folder = Path(tempfile.mkdtemp(prefix="bootstrap-", dir=workdir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if ids is not None and folder.exists():
            subprocess.run(confined(["rm", "-rf", "--", str(folder)], ids), check=False)


def host_archive() -> Archive:
    """FIREKILN_DEBIAN_MIRROR, else what the host's own apt uses for Debian, else Debian's servers; and the keyring."""
    keyring = next((path for path in _KEYRINGS if path.is_file()), None)
    if keyring is None:
        raise MissingProgramError(
            f"Debian's archive keyring is not at {_KEYRINGS[0]}", hint="apt-get install debian-archive-keyring"
        )
    known = dict(reversed(_host_repositories()))
    mirror = os.environ.get(MIRROR_VARIABLE) or known.get("Debian") or MIRROR
    return Archive(mirror=mirror.rstrip("/"), security=known.get("Debian-Security", SECURITY), keyring=keyring)


def _host_repositories() -> list[tuple[str, str]]:
    """Label and address of each Debian repository in the host's apt lists. Empty without apt or its lists."""
    form = "$(ORIGIN)\t$(COMPONENT)\t$(LABEL)\t$(REPO_URI)"
    rows = [line.split("\t") for line in _output(["apt-get", "indextargets", "--format", form]).splitlines()]
    return [(row[2], row[3].rstrip("/")) for row in rows if row[:2] == ["Debian", "main"] and len(row) == 4]


def _apt_options() -> list[str]:
    """The host's proxies and habits of fetching, in apt's own syntax."""
    lines = [line for key in _APT_SETTINGS for line in _output(["apt-config", "dump", key]).splitlines()]
    # An empty value is a name's own heading in the tree ('Acquire::http "";'), and says nothing.
    settings = [line.rstrip(";") for line in lines if not line.endswith('"";')]
    return [*settings, 'APT::Sandbox::User "root"']  # the store's folders are not for another user to enter


def _architecture(platform: Platform) -> str:
    architecture = debian_architecture(platform)
    if architecture is None:
        raise BuildError(f"Debian has no packages for {platform}")
    host = Platform.host()
    runs = {host.architecture, "386" if host.architecture == "amd64" else ""}
    if platform.architecture not in runs and not list(Path("/proc/sys/fs/binfmt_misc").glob("qemu-*")):
        raise BuildError(
            f"cannot set up packages for {platform} on {host}",
            hint="apt-get install qemu-user-static lets this host run them",
        )
    return architecture


def _epoch(recipe: Recipe, archive: Archive, folder: Path) -> int:
    """Seconds: SOURCE_DATE_EPOCH, or when the suite was last released (a point release; not every security fix)."""
    if given := os.environ.get("SOURCE_DATE_EPOCH", ""):
        if not given.isdecimal():
            raise BuildError(f"SOURCE_DATE_EPOCH is no number of seconds: {given}")
        return int(given)
    target = folder / "InRelease"
    url = f"{archive.mirror}/dists/{recipe.suite}/InRelease"
    # apt's own fetcher knows the host's proxies. Only the date is read of what it brings: mmdebstrap checks signatures.
    _output([_APT_HELPER, "-qq", "download-file", url, str(target)])
    lines = target.read_text(errors="replace").splitlines() if target.is_file() else []
    date = next((line.partition(":")[2] for line in lines if line.startswith("Date:")), None)
    if date is None:
        raise BuildError(
            f"cannot fetch {url}",
            hint=f"{MIRROR_VARIABLE} names another mirror; apt's own proxies are used",
        )
    return int(email.utils.parsedate_to_datetime(date.strip()).timestamp())


def _run(argv: Sequence[str], stdin: str, folder: Path, epoch: int, progress: Progress) -> None:
    """Run mmdebstrap, its sources on stdin. BuildError with its own reason where it fails."""
    kept = {name: os.environ[name] for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ}
    environment = {
        **kept,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TMPDIR": str(folder),
        "SOURCE_DATE_EPOCH": str(epoch),
        "LC_ALL": "C.UTF-8",
    }
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with tempfile.TemporaryFile("w+", dir=folder) as given:
        given.write(stdin)
        given.seek(0)
        with subprocess.Popen(
            argv,
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=environment,
            text=True,
            errors="replace",
        ) as process:
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    last.append(line.rstrip())
                    if line.startswith(("I: ", "W: ", "E: ")):  # its own words; the rest is apt's and dpkg's
                        progress(last[-1])
            except BaseException:
                process.kill()
                raise
    if process.returncode != 0:
        said = last[-1] if last else "no reason given"
        reason = next((line.removeprefix("E: ") for line in last if line.startswith("E: ")), said)
        raise BuildError(f"mmdebstrap failed: {reason}", hint="its output above says more")


def _tree(spool: Path) -> Tree:
    size = spool.stat().st_size
    file = File(meta=Meta(mode=0o600), size=size, extents=(Extent(0, size, PathSource(str(spool)), 0),))
    archive = open_archive(file, None)
    if archive is None:
        raise BuildError("mmdebstrap made no archive")
    overlay = Overlay(Directory(meta=Meta(mode=0o755)))
    unpack(archive, overlay, b"", Made(mode=0o755, owner=None, mtime_ns=0))
    return overlay.diff()


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


def _require(program: str, package: str) -> None:
    try:
        subprocess.run([program, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    except FileNotFoundError as error:
        raise MissingProgramError(f"{program} is not on this host", hint=f"apt-get install {package}") from error


def _output(argv: Sequence[str]) -> str:
    """A program's standard output, or nothing where it fails or is absent."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
