"""`--cache-from` and `--cache-to`: `type=local,src=DIR`, `type=local,dest=DIR[,mode=min|max]`, as buildx has them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from firekiln.errors import UsageError
from firekiln.oci import digest as digests
from firekiln.values import dataclass

DEFAULT_TAG: Final = "latest"

_FROM_KEYS: Final = frozenset({"type", "src", "digest", "tag"})
_TO_KEYS: Final = frozenset({"type", "dest", "mode", "tag", "compression", "ignore-error"})
_FORMAT_KEYS: Final = frozenset({"oci-mediatypes", "image-manifest"})
"""What BuildKit lets one choose of its own format; ours is always OCI's, with a manifest."""
_OTHERS: Final = frozenset({"registry", "inline", "gha", "s3", "azblob"})
_BOOL: Final = {"true": True, "1": True, "false": False, "0": False}


class Mode(enum.StrEnum):
    """Whose layers are exported: those of the resulting image, or of all steps."""

    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFrom:
    """`digest` is a manifest's; without it the one under `tag` is taken."""

    src: Path
    tag: str = DEFAULT_TAG
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheTo:
    """With `ignore_error` an export that fails is a warning."""

    dest: Path
    mode: Mode = Mode.MIN
    tag: str = DEFAULT_TAG
    ignore_error: bool = False


def parse_cache_from(text: str) -> CacheFrom:
    """UsageError where `text` makes no sense, or is of a type that is not supported."""
    option = f"--cache-from {text}"
    fields = _fields(option, text, _FROM_KEYS)
    if not fields.get("src"):
        raise UsageError(f"{option}: local cache importer requires src")
    digest = fields.get("digest", "")
    if digest and not digests.is_valid(digest):
        raise UsageError(f'{option}: "{digest}" is no digest')
    return CacheFrom(src=Path(fields["src"]), digest=digest, tag=fields.get("tag") or DEFAULT_TAG)


def parse_cache_to(text: str) -> CacheTo:
    """As `parse_cache_from`."""
    option = f"--cache-to {text}"
    fields = _fields(option, text, _TO_KEYS)
    if not fields.get("dest"):
        raise UsageError(f"{option}: local cache exporter requires dest")
    if fields.get("compression", "uncompressed") != "uncompressed":
        raise UsageError(f"{option}: layers are exported as they are", hint="compress the folder as a whole")
    try:
        mode = Mode(fields.get("mode") or Mode.MIN)
        ignore_error = _BOOL[fields.get("ignore-error", "false")]
    except (ValueError, KeyError) as error:
        raise UsageError(f"{option}: invalid value {error}") from None
    return CacheTo(
        dest=Path(fields["dest"]), mode=mode, tag=fields.get("tag") or DEFAULT_TAG, ignore_error=ignore_error
    )


def _fields(option: str, text: str, known: frozenset[str]) -> Mapping[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    fields = {key.strip().lower(): value for key, equals, value in pairs if equals}
    # A word alone is buildx's short form of type=registry,ref=….
    kind = fields.get("type") if len(fields) == len(pairs) else "registry"
    if not kind:
        raise UsageError(f"{option}: type is required", hint="type=local,src=DIR or type=local,dest=DIR")
    if kind in _OTHERS:
        raise UsageError(f"{option}: caches of type {kind} are not supported yet", hint="there is type=local")
    if kind != "local":
        raise UsageError(f"{option}: unknown type {kind}", hint="there is type=local")
    unknown = sorted(set(fields) - known - _FORMAT_KEYS)
    if unknown:
        raise UsageError(f"{option}: unknown field {unknown[0]}")
    return fields
