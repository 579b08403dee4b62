"""`--cache-from` and `--cache-to`, as buildx has them: `type=local,src=DIR`, `type=local,dest=DIR[,mode=min|max]`,
`type=registry,ref=NAME[,mode=…]`, and NAME alone for the last; `type=inline` to write it into the image.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

from firekiln.errors import ReferenceFormatError, UsageError
from firekiln.oci import digest as digests
from firekiln.oci.reference import Reference
from firekiln.values import dataclass

DEFAULT_TAG: Final = "latest"

_FROM_KEYS: Final = {"local": frozenset({"type", "src", "digest", "tag"}), "registry": frozenset({"type", "ref"})}
_TO_KEYS: Final = {
    "local": frozenset({"type", "dest", "mode", "tag", "compression", "ignore-error"}),
    "registry": frozenset({"type", "ref", "mode", "compression", "ignore-error"}),
    "inline": frozenset({"type"}),
}
_FORMAT_KEYS: Final = frozenset({"oci-mediatypes", "image-manifest"})
"""What BuildKit lets one choose of its own format; ours is always OCI's, with a manifest."""
_OTHERS: Final = frozenset({"gha", "s3", "azblob"})
_BOOL: Final = {"true": True, "1": True, "false": False, "0": False}


class Mode(enum.StrEnum):
    """Whose layers are exported: those of the resulting image, or of all steps."""

    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFrom:
    """`digest` is a manifest's; without it the one under `tag` is taken."""

    src: Path
    tag: str = DEFAULT_TAG
    digest: str = ""

    @property
    def where(self) -> str:
        """As BuildKit names it in its progress."""
        return f"local:{self.src}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryFrom:
    """A reference of a registry."""

    ref: str

    @property
    def where(self) -> str:
        return self.ref


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTo:
    """With `ignore_error` an export that fails is a warning."""

    dest: Path
    mode: Mode = Mode.MIN
    tag: str = DEFAULT_TAG
    ignore_error: bool = False

    @property
    def where(self) -> str:
        return "client directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryTo:
    """As LocalTo."""

    ref: str
    mode: Mode = Mode.MIN
    ignore_error: bool = False

    @property
    def where(self) -> str:
        return "registry"


CacheFrom: TypeAlias = LocalFrom | RegistryFrom


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineTo:
    """In the image's own config: results whose layers are the image's."""


CacheTo: TypeAlias = LocalTo | RegistryTo | InlineTo


def parse_cache_from(text: str) -> CacheFrom:
    """UsageError where `text` makes no sense, or is of a type that is not supported."""
    option = f"--cache-from {text}"
    if text.replace(" ", "").lower() == "type=inline":
        raise UsageError(f"{option}: a cache in an image is read by the image's name", hint="type=registry,ref=IMAGE")
    fields = _fields(option, text, _FROM_KEYS)
    if fields["type"] == "registry":
        return RegistryFrom(ref=_reference(option, fields))
    if not fields.get("src"):
        raise UsageError(f"{option}: local cache importer requires src")
    digest = fields.get("digest", "")
    if digest and not digests.is_valid(digest):
        raise UsageError(f'{option}: "{digest}" is no digest')
    return LocalFrom(src=Path(fields["src"]), digest=digest, tag=fields.get("tag") or DEFAULT_TAG)


def parse_cache_to(text: str) -> CacheTo:
    """As `parse_cache_from`."""
    option = f"--cache-to {text}"
    fields = _fields(option, text, _TO_KEYS)
    if fields["type"] == "inline":
        return InlineTo()
    if fields.get("compression", "uncompressed") != "uncompressed":
        raise UsageError(f"{option}: layers are exported as they are")
    try:
        mode = Mode(fields.get("mode") or Mode.MIN)
        ignore_error = _BOOL[fields.get("ignore-error", "false")]
    except (ValueError, KeyError) as error:
        raise UsageError(f"{option}: invalid value {error}") from None
    if fields["type"] == "registry":
        return RegistryTo(ref=_reference(option, fields), mode=mode, ignore_error=ignore_error)
    if not fields.get("dest"):
        raise UsageError(f"{option}: local cache exporter requires dest")
    return LocalTo(
        dest=Path(fields["dest"]), mode=mode, tag=fields.get("tag") or DEFAULT_TAG, ignore_error=ignore_error
    )


def _reference(option: str, fields: Mapping[str, str]) -> str:
    if not fields.get("ref"):
        raise UsageError(f"{option}: registry cache requires ref")
    try:
        return str(Reference.parse(fields["ref"]).tagged())
    except ReferenceFormatError as error:
        raise UsageError(f"{option}: {error}") from error


def _fields(option: str, text: str, known: Mapping[str, frozenset[str]]) -> Mapping[str, str]:
    """The fields by name, `type` among them, one of the keys of `known`."""
    pairs = [part.partition("=") for part in text.split(",")]
    fields = {key.strip().lower(): value for key, equals, value in pairs if equals}
    if len(pairs) == 1 and not fields:
        return {"type": "registry", "ref": text}  # buildx's short form
    kind = fields.get("type", "")
    supported = f"there are {' and '.join(f'type={name}' for name in known)}"
    if not kind:
        raise UsageError(f"{option}: type is required", hint="type=local,src=DIR or type=local,dest=DIR")
    if kind in _OTHERS:
        raise UsageError(f"{option}: caches of type {kind} are not supported", hint=supported)
    if kind not in known:
        raise UsageError(f"{option}: unknown type {kind}", hint=supported)
    unknown = sorted(set(fields) - known[kind] - _FORMAT_KEYS)
    if unknown or len(fields) != len(pairs):
        raise UsageError(f"{option}: unknown field {unknown[0] if unknown else text}")
    return fields
