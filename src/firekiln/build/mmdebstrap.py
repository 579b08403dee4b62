"""Systems of deb packages, set up by mmdebstrap.

The signatures of all that is installed are checked with the distribution's keyring. The same package versions give the
same Tree: file times are clamped to the date of the release file (SOURCE_DATE_EPOCH goes before), and what differs
from run to run (logs, caches, the host's own files) is taken out. mmdebstrap runs in mount and pid namespaces of its
own, so that nothing of it outlives us, whatever ends us; for an ordinary user in a user namespace too, as root of it.
"""

from __future__ import annotations

import email.utils
import os
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from firekiln.build.aptsystem import Archive, finish, mmdebstrap_argv, public_archive, sources
from firekiln.build.ops.unpack import unpacked_file
from firekiln.build.recipes import Distribution, Mmdebstrap, Recipe
from firekiln.errors import BuildError, MissingProgramError
from firekiln.rootfs.tree import Tree
from firekiln.sandbox.confine import confined
from firekiln.sandbox.idmap import IdMap
from firekiln.values import dataclass

_APT_SETTINGS: Final = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::ForceIPv4")
_LAST_LINES: Final = 20
_APT_HELPER: Final = "/usr/lib/apt/apt-helper"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What is to be set up, of which packages."""

    recipe: Recipe
    method: Mmdebstrap
    architecture: str
    archive: Archive


def check_program() -> None:
    """MissingProgramError where the host has no mmdebstrap."""
    try:
        subprocess.run(["mmdebstrap", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    except FileNotFoundError as error:
        raise MissingProgramError("mmdebstrap is not on this host", hint="apt-get install mmdebstrap") from error


def host_archive(distribution: Distribution, method: Mmdebstrap, architecture: str) -> Archive:
    """The environment's mirror, else what the host's own apt uses for these packages, else the distribution's servers.

    MissingProgramError where the host lacks the keyring.
    """
    keyring = next((path for path in method.keyrings if Path(path).is_file()), None)
    if keyring is None:
        package = method.keyring_package
        raise MissingProgramError(
            f"{distribution.system}'s archive keyring is not at {method.keyrings[0]}",
            hint=f"apt-get install {package}" if package else "put it there, or name its place in the recipe",
        )
    public = public_archive(method, architecture)
    known = dict(reversed(_host_repositories(method.origin))) if method.origin else {}
    if public.mirror != method.mirror:
        known = {}  # the host's mirror has the host's architecture
    mirror = os.environ.get(distribution.variable) or known.get(method.origin) or public.mirror
    security = known.get(method.security_label) or public.security
    return Archive(mirror=mirror.rstrip("/"), security=security, keyring=keyring)


def installed(
    system: System, folder: Path, ids: IdMap | None, *, epoch: int | None, progress: Progress
) -> tuple[Tree, int]:
    """The Tree of a system set up in `folder`, where its files' content stays, and its date in seconds. BuildError."""
    recipe, archive = system.recipe, system.archive
    date = epoch if epoch is not None else _release_date(system, folder)
    progress(
        f"bootstrapping {recipe.distribution.system} {recipe.release} ({system.architecture}) from {archive.mirror}"
    )
    spool = folder / "root.tar"
    argv = mmdebstrap_argv(
        recipe, system.method, system.architecture, spool, apt_options=_apt_options(), sysfs=ids is None
    )
    _run(confined(argv, ids), sources(recipe, system.method, archive), folder, date, progress)
    tree = unpacked_file(spool, folder)
    if tree is None:
        raise BuildError("mmdebstrap made no archive")
    finish(tree, recipe, system.method, system.architecture, epoch=date)
    return tree, date


def _host_repositories(origin: str) -> list[tuple[str, str]]:
    """Label and address of each repository of that origin in the host's apt lists. Empty without apt or its lists."""
    form = "$(ORIGIN)\t$(COMPONENT)\t$(LABEL)\t$(REPO_URI)"
    rows = [line.split("\t") for line in _output(["apt-get", "indextargets", "--format", form]).splitlines()]
    return [(row[2], row[3].rstrip("/")) for row in rows if row[:2] == [origin, "main"] and len(row) == 4]


def _apt_options() -> list[str]:
    """The host's proxies and habits of fetching, in apt's own syntax."""
    lines = [line for key in _APT_SETTINGS for line in _output(["apt-config", "dump", key]).splitlines()]
    # An empty value is a name's own heading in the tree ('Acquire::http "";'), and says nothing.
    settings = [line.rstrip(";") for line in lines if not line.endswith('"";')]
    return [*settings, 'APT::Sandbox::User "root"']  # the store's folders are not for another user to enter


def _release_date(system: System, folder: Path) -> int:
    """Seconds: when the release was last made (a point release; not every security fix)."""
    target = folder / "InRelease"
    suite = system.method.suites[0].replace("{release}", system.recipe.release)
    url = f"{system.archive.mirror}/dists/{suite}/InRelease"
    # apt's own fetcher knows the host's proxies. Only the date is read of what it brings: mmdebstrap checks signatures.
    _output([_APT_HELPER, "-qq", "download-file", url, str(target)])
    lines = target.read_text(errors="replace").splitlines() if target.is_file() else []
    date = next((line.partition(":")[2] for line in lines if line.startswith("Date:")), None)
    if date is None:
        raise BuildError(
            f"cannot fetch {url}",
            hint=f"{system.recipe.distribution.variable} names another mirror; apt's own proxies are used",
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


def _output(argv: Sequence[str]) -> str:
    """A program's standard output, or nothing where it fails or is absent."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
