"""Image references, `[registry/]repository[:tag][@digest]`, with the grammar and the normal form of Docker's.

The grammar is that of the Go module `distribution/reference`: a registry has upper and lower case letters, dots and
perhaps a port, or is an IPv6 address in brackets; a repository is lower case; a tag has at most 128 characters.
What lacks a registry is `docker.io/…`, and of one word `docker.io/library/…`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from firekiln.errors import ReferenceFormatError
from firekiln.values import dataclass

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"

_LEGACY_REGISTRY = "index.docker.io"
_OFFICIAL = "library/"
_MAX_REPOSITORY = 255

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_REFERENCE = re.compile(
    rf"(?P<registry>{_REGISTRY})/(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?"
)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_HEX_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A normalised reference; `str` gives it in full (`docker.io/library/debian:12`). `parse` makes one of any text."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The reference that `text` means. A missing tag stays missing (`tagged` adds it).

        ReferenceFormatError, in Docker's words, where it is none.
        """
        if _IDENTIFIER.fullmatch(text):
            raise ReferenceFormatError(
                f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings",
                hint="an image is named by repository, tag or digest; put the digest after the name: NAME@sha256:…",
            )
        registry, remainder = _split_registry(text)
        repository = remainder.partition(":")[0]
        if repository.lower() != repository:
            meant = text.replace(repository.removeprefix(_OFFICIAL), _lowered(repository))
            valid = _REFERENCE.fullmatch(f"{registry}/{remainder.replace(repository, repository.lower())}")
            raise ReferenceFormatError(
                f"invalid reference format: repository name ({repository}) must be lowercase",
                hint=f"did you mean {meant}?" if valid else None,
            )
        match = _REFERENCE.fullmatch(f"{registry}/{remainder}")
        if match is None:
            raise ReferenceFormatError("invalid reference format")
        if len(match["repository"]) > _MAX_REPOSITORY:
            raise ReferenceFormatError(f"repository name must not be more than {_MAX_REPOSITORY} characters")
        if match["digest"] is not None:
            check_digest(match["digest"])
        return cls(registry=match["registry"], repository=match["repository"], tag=match["tag"], digest=match["digest"])

    def __str__(self) -> str:
        return self._spelled(f"{self.registry}/{self.repository}")

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """As a user writes it: without `docker.io/` and `library/`."""
        if self.registry != DEFAULT_REGISTRY:
            return str(self)
        short = self.repository.removeprefix(_OFFICIAL)
        return self._spelled(self.repository if "/" in short else short)

    def tagged(self) -> Reference:
        """The same, with the tag `latest` where there is neither a tag nor a digest."""
        return replace(self, tag=DEFAULT_TAG) if self.tag is None and self.digest is None else self

    def with_digest(self, digest: str) -> Reference:
        """The same image pinned to `digest`. ReferenceFormatError where that is no digest."""
        check_digest(digest)
        return replace(self, digest=digest)

    def _spelled(self, name: str) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{name}{tag}{digest}"


def check_digest(digest: str) -> None:
    """ReferenceFormatError, in the words of `opencontainers/go-digest`, unless `digest` is a well-formed one."""
    algorithm, colon, encoded = digest.partition(":")
    if not colon or not algorithm or not encoded:
        raise ReferenceFormatError("invalid checksum digest format")
    if algorithm not in _HEX_DIGITS:
        raise ReferenceFormatError("unsupported digest algorithm")
    if len(encoded) != _HEX_DIGITS[algorithm]:
        raise ReferenceFormatError("invalid checksum digest length")
    if not re.fullmatch(r"[a-f0-9]+", encoded):
        raise ReferenceFormatError("invalid checksum digest format")


def _split_registry(text: str) -> tuple[str, str]:
    """A first part with a dot, a colon or an upper-case letter, or `localhost`, is a registry; all else is Docker's."""
    first, slash, rest = text.partition("/")
    if not slash:
        return DEFAULT_REGISTRY, _OFFICIAL + text
    is_registry = first == "localhost" or "." in first or ":" in first or first.lower() != first
    registry, remainder = (first, rest) if is_registry else (DEFAULT_REGISTRY, text)
    if registry == _LEGACY_REGISTRY:
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return registry, remainder


def _lowered(repository: str) -> str:
    return repository.removeprefix(_OFFICIAL).lower()
