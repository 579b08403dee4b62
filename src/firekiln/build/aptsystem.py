"""Systems of deb packages: the command that unpacks and sets them up, and what becomes of the packages' files.

Pure. `mmdebstrap_argv` and `sources` say how a recipe's packages are unpacked and set up, `finish` makes of the result
what Docker's image of that name holds: no device nodes, caches, logs or host's files, and the settings for apt and dpkg
that Dockerfiles count on (their names are part of that: `rm /etc/apt/apt.conf.d/docker-clean` is how a Dockerfile keeps
packages in a cache mount).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from firekiln.build.recipes import Mmdebstrap, Recipe
from firekiln.rootfs import lookup
from firekiln.rootfs.tree import Directory, File, Meta, Tree
from firekiln.values import dataclass

_SLIM_EXCLUDED: Final = (
    "bug doc doc-base groff info linda lintian locale man".split()  # below /usr/share
)
_SLIM_KEPT: Final = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")
_PRIMARY: Final = frozenset({"amd64", "i386"})
"""Architectures that a distribution with `ports` serves from its mirror."""

_CLEAN: Final = (
    '"rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true";'
)
_SETTINGS: Final[Mapping[str, tuple[int, str]]] = {
    "etc/apt/apt.conf.d/docker-autoremove-suggests": (0o644, 'APT::AutoRemove::SuggestsImportant "false";\n'),
    "etc/apt/apt.conf.d/docker-clean": (
        0o644,
        f"""// An image wants no package files: they go as soon as they are installed.
DPkg::Post-Invoke {{ {_CLEAN} }};
APT::Update::Post-Invoke {{ {_CLEAN} }};
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
""",
    ),
    "etc/apt/apt.conf.d/docker-gzip-indexes": (
        0o644,
        'Acquire::GzipIndexes "true";\nAcquire::CompressionTypes::Order:: "gz";\n',
    ),
    "etc/apt/apt.conf.d/docker-no-languages": (0o644, 'Acquire::Languages "none";\n'),
    "etc/dpkg/dpkg.cfg.d/docker-apt-speedup": (0o644, "force-unsafe-io\n"),
    "usr/sbin/policy-rc.d": (
        0o755,
        "#!/bin/sh\n# No service starts while an image is built: invoke-rc.d reads 101 as forbidden.\nexit 101\n",
    ),
}
_REMOVED: Final = (
    "etc/hostname etc/resolv.conf etc/.pwd.lock etc/apt/sources.list etc/apt/apt.conf.d/99mmdebstrap "
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap etc/passwd- etc/shadow- etc/group- etc/gshadow- etc/subuid- etc/subgid- "
    "var/cache/ldconfig/aux-cache var/cache/debconf/config.dat-old var/cache/debconf/templates.dat-old "
    "var/lib/dpkg/status-old var/lib/dpkg/diversions-old var/lib/dpkg/statoverride-old var/lib/dpkg/available-old "
    "var/lib/apt/lists/lock var/cache/apt/archives/lock var/lib/dpkg/lock var/lib/dpkg/lock-frontend "
    "var/lib/dpkg/triggers/Lock"
).split()
_EMPTIED: Final = "dev proc sys tmp var/tmp etc/apt/sources.list.d var/lib/apt/lists var/cache/apt".split()
_LOGS: Final = "var/log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Where packages come from, and the keyring that their signatures are held to. `security` may be empty."""

    mirror: str
    security: str
    keyring: str


def public_archive(method: Mmdebstrap, architecture: str) -> Archive:
    """Where the distribution itself serves the packages of an architecture (Debian's name)."""
    ports = method.ports if architecture not in _PRIMARY else ""
    return Archive(
        mirror=ports or method.mirror,
        security=(ports and method.security and ports) or method.security,
        keyring=method.keyrings[0],
    )


def sources(recipe: Recipe, method: Mmdebstrap, archive: Archive) -> str:
    """The release with its updates and security fixes, in deb822."""
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {' '.join(suites)}\nComponents: {' '.join(method.components)}\n"
        f"Signed-By: {archive.keyring}\n"
        for uri, suites in _repositories(recipe, method, archive)
    )


def mmdebstrap_argv(
    recipe: Recipe,
    method: Mmdebstrap,
    architecture: str,
    target: Path,
    *,
    apt_options: Sequence[str],
    sysfs: bool = True,
) -> list[str]:
    """The command line of mmdebstrap: a tar at `target` of what its standard input (`sources`) offers.

    `sysfs` False where we may mount none (root of a user namespace in the host's network).
    """
    included = [*method.include, *(recipe.distribution.inits[recipe.init] if recipe.init else ())]
    return [
        "mmdebstrap",
        "--mode=root",
        f"--variant={method.variant}",
        "--format=tar",
        f"--architectures={architecture}",
        *(f"--aptopt={option}" for option in apt_options),
        *(f"--dpkgopt={option}" for option in _dpkg_options(recipe)),
        *([f"--include={','.join(included)}"] if included else []),
        *([] if sysfs else ["--skip=chroot/mount/sys"]),
        *(["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"] if recipe.release in method.merged_usr else []),
        recipe.release,
        str(target),
        "-",
    ]


def finish(tree: Tree, recipe: Recipe, method: Mmdebstrap, architecture: str, *, epoch: int) -> None:
    """Make of freshly installed packages what the image holds. `tree` is changed in place; new files bear `epoch`."""
    for path in _REMOVED:
        parent, name = _holder(tree, path)
        parent.children.pop(name, None)
    for path in _EMPTIED:
        _directory(tree, path).children.clear()
    _remove_files(_directory(tree, _LOGS))
    settings = {**_SETTINGS, **_sources_file(recipe, method, architecture), **_slim_file(recipe)}
    for path, (mode, text) in settings.items():
        parent, name = _holder(tree, path)
        meta = Meta(mode=mode, mtime_ns=epoch * 10**9)
        parent.children[name] = File.of(text.encode(), meta)


def _repositories(recipe: Recipe, method: Mmdebstrap, archive: Archive) -> list[tuple[str, list[str]]]:
    """Addresses with the suites that are fetched from there."""
    stanzas = [(archive.mirror, method.suites), (archive.security, method.security_suites)]
    return [
        (uri, [suite.replace("{release}", recipe.release) for suite in suites])
        for uri, suites in stanzas
        if uri and suites
    ]


def _dpkg_options(recipe: Recipe) -> list[str]:
    if not recipe.slim:
        return []
    excluded = [f"path-exclude=/usr/share/{name}/*" for name in _SLIM_EXCLUDED]
    return [*excluded, *(f"path-include={path}" for path in _SLIM_KEPT)]


def _slim_file(recipe: Recipe) -> dict[str, tuple[int, str]]:
    """What a slim base lacks, packages installed later lack too."""
    options = _dpkg_options(recipe)
    return {"etc/dpkg/dpkg.cfg.d/docker": (0o644, "\n".join([*options, ""]))} if options else {}


def _sources_file(recipe: Recipe, method: Mmdebstrap, architecture: str) -> dict[str, tuple[int, str]]:
    """The distribution's own servers, wherever the packages came from."""
    archive = public_archive(method, architecture)
    if recipe.release not in method.one_line_sources:
        name = recipe.distribution.repository.rpartition("/")[2]
        return {f"etc/apt/sources.list.d/{name}.sources": (0o644, sources(recipe, method, archive))}
    lines = [
        f"deb {uri} {suite} {' '.join(method.components)}"
        for uri, suites in _repositories(recipe, method, archive)
        for suite in suites
    ]
    return {"etc/apt/sources.list": (0o644, "\n".join([*lines, ""]))}


def _holder(tree: Tree, path: str) -> tuple[Directory, bytes]:
    """The directory that `path` lies in, made where the packages have none, and the name in it."""
    folder, _, name = path.rpartition("/")
    return _directory(tree, folder), name.encode()


def _directory(tree: Tree, path: str) -> Directory:
    """The directory at `path`, links such as `sbin -> usr/sbin` followed; an empty one where nothing is."""
    found = lookup.resolve(tree, path.encode())
    if isinstance(found.node, Directory):
        return found.node
    made = Directory(meta=Meta(mode=0o755))
    if found.parent is not None and found.node is None:
        found.parent.children[found.path.rpartition(b"/")[2]] = made
    return made


def _remove_files(directory: Directory) -> None:
    """Every file below, while the directories, which programs expect, stay."""
    for name, node in list(directory.children.items()):
        if isinstance(node, Directory):
            _remove_files(node)
        else:
            del directory.children[name]
