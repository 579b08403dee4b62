"""Recipes as values. Pure.

A distribution is one file: the repository that FROM names, its tags, and one way to make what they name. A recipe is
one tag of it, perhaps slim (`debian:12-slim`), perhaps with an init behind it (`debian:12-slim-systemd`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Final, TypeAlias

from firekiln.oci.platform import Platform
from firekiln.oci.reference import DEFAULT_TAG, Reference
from firekiln.values import dataclass

PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SLIM: Final = "-slim"
_STAR: Final = "([0-9]+)"
"""What `*` in a tag stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mmdebstrap:
    """A system of deb packages, by mmdebstrap. `{release}` in suites is the tag's.

    origin            what apt calls who made the packages: the host's own mirror of them is used, if it has one
    mirror, security  where they are, and their security fixes (empty: nowhere else); `security_label` as `origin`
    ports             where those of architectures other than amd64 and i386 are, if elsewhere
    keyrings          files of the host, the first that is there; the first of all is what the system's own sources name
    slim              whether there is a slim tag of each: without manuals and translations
    merged_usr        releases whose packages do not bring about one /usr; one_line_sources: that have sources.list
    """

    mirror: str
    keyrings: tuple[str, ...]
    keyring_package: str = ""
    origin: str = ""
    security: str = ""
    security_label: str = ""
    ports: str = ""
    suites: tuple[str, ...] = ("{release}", "{release}-updates")
    security_suites: tuple[str, ...] = ("{release}-security",)
    components: tuple[str, ...] = ("main",)
    variant: str = "minbase"
    include: tuple[str, ...] = ()
    slim: bool = False
    merged_usr: tuple[str, ...] = ()
    one_line_sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RootArchive:
    """A root file system that its distribution offers as an archive. Addresses hold {mirror}, {release} and {arch}.

    releases   a list of what is there, as Alpine keeps it, in which the record of `flavor` names file and digest
    url        the archive itself, where there is no list; `sha256` its digest by the architecture's name, or for all
    keyring    a file of the host: the signature at the archive's address with `signature` behind it is held to it
    install    the command that an init's packages are put in with
    """

    mirror: str = ""
    releases: str = ""
    flavor: str = ""
    url: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    keyring: str = ""
    signature: str = ".asc"
    install: tuple[str, ...] = ()


Method: TypeAlias = Mmdebstrap | RootArchive


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """One recipe file, `file` its name for messages.

    `architectures` maps OCI's names (`arm/v7`) to its own; where it is empty they are the same.
    """

    file: str
    repository: str
    system: str
    tags: Mapping[str, str]
    method: Method
    architectures: Mapping[str, str] = field(default_factory=dict)
    inits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    env: tuple[str, ...] = (PATH,)
    cmd: tuple[str, ...] = ("bash",)

    @property
    def familiar(self) -> str:
        """The repository as FROM has it."""
        return Reference.parse(self.repository).familiar

    def architecture(self, platform: Platform) -> str | None:
        """Its own name for `linux/arm/v7` and so on; None for what it does not run on."""
        name = "/".join(filter(None, (platform.architecture, platform.variant)))
        if platform.os != "linux":
            return None
        return self.architectures.get(name) if self.architectures else name

    @property
    def variable(self) -> str:
        """The environment's variable that names another mirror: FIREKILN_DEBIAN_MIRROR."""
        return f"FIREKILN_{re.sub('[^A-Z0-9]+', '_', self.familiar.rpartition('/')[2].upper())}_MIRROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A base system: `tag` of a distribution, made of `release`; `init` is one of the distribution's, or ""."""

    distribution: Distribution
    tag: str
    release: str
    slim: bool = False
    init: str = ""

    @property
    def reference(self) -> str:
        return f"{self.distribution.repository}:{self.tag}"


def find(reference: str, distributions: Sequence[Distribution]) -> Recipe | None:
    """The recipe for a reference in any spelling that Docker knows; None without one.

    Of several distributions with the same repository the first that has the tag.
    """
    parsed = Reference.parse(reference)
    if parsed.digest is not None:
        return None
    tag = parsed.tag or DEFAULT_TAG
    candidates = (_made(item, tag) for item in distributions if item.repository == parsed.name)
    return next(filter(None, candidates), None)


def listed(distribution: Distribution) -> Iterator[tuple[str, str]]:
    """Each tag (some with `*` for a number) with its release, the full one before the slim one."""
    slims = isinstance(distribution.method, Mmdebstrap) and distribution.method.slim
    for tag, release in distribution.tags.items():
        yield tag, release
        if slims and tag != DEFAULT_TAG:  # Docker has no latest-slim
            yield tag + _SLIM, release


def _made(distribution: Distribution, tag: str) -> Recipe | None:
    plain, dash, init = tag.rpartition("-")
    if not dash or init not in distribution.inits:
        plain, init = tag, ""
    for known, release in listed(distribution):
        found = re.fullmatch(re.escape(known).replace(r"\*", _STAR), plain)
        if found is None:
            continue
        for number in found.groups():
            release = release.replace("*", number, 1)  # noqa: PLW2901 - filled in piece by piece
        slim = known.endswith(_SLIM) and known not in distribution.tags
        return Recipe(distribution=distribution, tag=tag, release=release, slim=slim, init=init)
    return None
