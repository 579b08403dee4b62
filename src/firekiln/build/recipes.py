"""Base systems that can be made of a distribution's packages: which there are, and what becomes of the packages' files.

Pure. A recipe names the suite; `mmdebstrap_argv` and `sources` say how its packages are unpacked and set up, `finish`
makes of the result what Docker's image of that name holds: no device nodes, caches, logs or host's files, and the
settings for apt and dpkg that Dockerfiles count on (their names are part of that: `rm /etc/apt/apt.conf.d/docker-clean`
is how a Dockerfile keeps packages in a cache mount).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from firekiln.oci.config import History, Image, ImageConfig
from firekiln.oci.platform import Platform
from firekiln.oci.reference import DEFAULT_TAG, Reference
from firekiln.rootfs import lookup
from firekiln.rootfs.tree import Directory, File, Meta, Tree
from firekiln.values import dataclass

REPOSITORY: Final = "docker.io/library/debian"
PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIRROR: Final = "http://deb.debian.org/debian"
SECURITY: Final = "http://deb.debian.org/debian-security"

_TAGS: Final[Mapping[str, str]] = {
    "bullseye": "bullseye",
    "11": "bullseye",
    "oldoldstable": "bullseye",
    "bookworm": "bookworm",
    "12": "bookworm",
    "oldstable": "bookworm",
    "trixie": "trixie",
    "13": "trixie",
    "stable": "trixie",
    "latest": "trixie",
}
INITS: Final[Mapping[str, tuple[str, ...]]] = {
    "systemd": ("systemd-sysv", "dbus"),
    "openrc": ("openrc", "sysvinit-core"),
    "sysvinit": ("sysvinit-core",),
}
"""Inits that a base may have, and their packages. Its tag then ends with the init's name: `debian:bookworm-systemd`."""
_ARCHITECTURES: Final[Mapping[str, str]] = {
    "amd64": "amd64",
    "arm64": "arm64",
    "arm/v7": "armhf",
    "arm/v5": "armel",
    "386": "i386",
    "ppc64le": "ppc64el",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
_ONE_LINE_SOURCES: Final = frozenset({"bullseye"})
"""Suites whose images still hold /etc/apt/sources.list."""
_MERGED_BY_HOOK: Final = frozenset({"bookworm"})
"""Suites with one /usr whose packages do not bring that about themselves: usrmerge would, with all of perl.
bullseye's images have /bin and /usr/bin apart; from trixie on base-files has the links."""
_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"

_SLIM_EXCLUDED: Final = (
    "bug doc doc-base groff info linda lintian locale man".split()  # below /usr/share
)
_SLIM_KEPT: Final = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")

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
class Recipe:
    """A base system: `tag` of Docker's `debian`, made of `suite`; a slim one lacks manuals and translations.

    `init` is one of INITS, or "": the system then has none, as Docker's.
    """

    tag: str
    suite: str
    slim: bool
    init: str = ""

    @property
    def reference(self) -> str:
        return f"{REPOSITORY}:{self.tag}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Where a host fetches Debian's packages, and the keyring that their signatures are held to."""

    mirror: str = MIRROR
    security: str = SECURITY
    keyring: Path = Path(_KEYRING)


def recipes() -> tuple[Recipe, ...]:
    """All of them, the full one of each tag before the slim one."""
    return tuple(
        Recipe(tag=f"{tag}-slim" if slim else tag, suite=suite, slim=slim)
        for tag, suite in _TAGS.items()
        for slim in (False, True)
        if not (slim and tag == DEFAULT_TAG)  # Docker has no latest-slim
    )


def find(reference: str) -> Recipe | None:
    """The recipe for a reference in any spelling that Docker knows (`debian`, `debian:12-slim`), perhaps with an init
    behind it (`debian:bookworm-slim-systemd`); None without one.
    """
    parsed = Reference.parse(reference)
    if parsed.digest is not None:
        return None
    tag = parsed.tag or DEFAULT_TAG
    plain, _, init = tag.rpartition("-")
    if init not in INITS:
        plain, init = tag, ""
    wanted = f"{parsed.name}:{plain}"
    found = next((recipe for recipe in recipes() if recipe.reference == wanted), None)
    return replace(found, tag=tag, init=init) if found is not None else None


def debian_architecture(platform: Platform) -> str | None:
    """Debian's name for `linux/amd64` and so on; None for what Debian does not run on."""
    if platform.os != "linux":
        return None
    return _ARCHITECTURES.get("/".join(filter(None, (platform.architecture, platform.variant))))


def sources(recipe: Recipe, archive: Archive, *, keyring: str = _KEYRING) -> str:
    """The suite with its updates and security fixes, in deb822."""
    stanzas = (
        (archive.mirror, f"{recipe.suite} {recipe.suite}-updates"),
        (archive.security, f"{recipe.suite}-security"),
    )
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {keyring}\n"
        for uri, suites in stanzas
    )


def mmdebstrap_argv(
    recipe: Recipe, architecture: str, target: Path, *, apt_options: Sequence[str], sysfs: bool = True
) -> list[str]:
    """The command line of mmdebstrap: a tar at `target` of what its standard input (`sources`) offers.

    `sysfs` False where we may mount none (root of a user namespace in the host's network).
    """
    return [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=tar",
        f"--architectures={architecture}",
        *(f"--aptopt={option}" for option in apt_options),
        *(f"--dpkgopt={option}" for option in _dpkg_options(recipe)),
        *([f"--include={','.join(INITS[recipe.init])}"] if recipe.init else []),
        *([] if sysfs else ["--skip=chroot/mount/sys"]),
        *(["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"] if recipe.suite in _MERGED_BY_HOOK else []),
        recipe.suite,
        str(target),
        "-",
    ]


def finish(tree: Tree, recipe: Recipe, *, epoch: int) -> None:
    """Make of freshly installed packages what the image holds. `tree` is changed in place; new files bear `epoch`."""
    for path in _REMOVED:
        parent, name = _holder(tree, path)
        parent.children.pop(name, None)
    for path in _EMPTIED:
        _directory(tree, path).children.clear()
    _remove_files(_directory(tree, _LOGS))
    for path, (mode, text) in {**_SETTINGS, **_sources_file(recipe), **_slim_file(recipe)}.items():
        parent, name = _holder(tree, path)
        meta = Meta(mode=mode, mtime_ns=epoch * 10**9)
        parent.children[name] = File.of(text.encode(), meta)


def image(recipe: Recipe, platform: Platform, *, epoch: int) -> Image:
    """The image's config. Its layer is not in it yet."""
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    kind = "Debian's minimal base, slim" if recipe.slim else "Debian's minimal base"
    return Image(
        platform=platform,
        config=ImageConfig(cmd=("/sbin/init",) if recipe.init else ("bash",), env=(PATH,)),
        history=(History(created=created, created_by=f"firekiln base create {recipe.tag}", comment=kind),),
        created=created,
    )


def _dpkg_options(recipe: Recipe) -> list[str]:
    if not recipe.slim:
        return []
    excluded = [f"path-exclude=/usr/share/{name}/*" for name in _SLIM_EXCLUDED]
    return [*excluded, *(f"path-include={path}" for path in _SLIM_KEPT)]


def _slim_file(recipe: Recipe) -> dict[str, tuple[int, str]]:
    """What a slim base lacks, packages installed later lack too."""
    options = _dpkg_options(recipe)
    return {"etc/dpkg/dpkg.cfg.d/docker": (0o644, "\n".join([*options, ""]))} if options else {}


def _sources_file(recipe: Recipe) -> dict[str, tuple[int, str]]:
    """Debian's own servers, wherever the packages came from."""
    if recipe.suite not in _ONE_LINE_SOURCES:
        return {"etc/apt/sources.list.d/debian.sources": (0o644, sources(recipe, Archive()))}
    lines = (
        f"deb {MIRROR} {recipe.suite} main",
        f"deb {MIRROR} {recipe.suite}-updates main",
        f"deb {SECURITY} {recipe.suite}-security main",
    )
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
