"""RUN's --mount and --device: `type=cache,target=/root/.cache,sharing=locked`.

A mount is read twice, as BuildKit does: when the file is parsed (`check_mount`), where its values may still hold
variables, and in the plan (`parse_mount`), which knows them. All errors are ValueError with the reason; who calls
knows the instruction.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from firekiln.dockerfile.suggestions import did_you_mean
from firekiln.values import dataclass

_KEYS = "type from source src target dst destination readonly ro readwrite rw required size id sharing mode uid gid env"
_TRUE = frozenset("1 t T TRUE true True".split())
_FALSE = frozenset("0 f F FALSE false False".split())
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_Choice = TypeVar("_Choice", bound=enum.StrEnum)
_FIELD = re.compile(r'"(?P<quoted>(?:[^"]|"")*)"(?=,|\Z)|(?P<plain>[^",]*)(?=,|\Z)')


class MountType(enum.StrEnum):
    BIND = "bind"
    CACHE = "cache"
    TMPFS = "tmpfs"
    SECRET = "secret"  # noqa: S105 - the name of a kind of mount
    SSH = "ssh"


class ShareMode(enum.StrEnum):
    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One --mount, as written; what a type's defaults are is the plan's business.

    `source_stage` is `from=`. `readonly` is settled already: true for all but cache and tmpfs where nothing is said.
    `size` is in bytes, 0 where absent. `mode`, `uid`, `gid`, `sharing` and `env` are None where absent.
    """

    type: MountType = MountType.BIND
    source_stage: str = ""
    source: str = ""
    target: str = ""
    readonly: bool = True
    id: str = ""
    sharing: ShareMode | None = None
    required: bool = False
    size: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One --device: a CDI name, and whether the build fails without it."""

    name: str
    required: bool = False


def check_mount(text: str) -> None:
    """What can be said of a mount before its variables are known. ValueError: no CSV, or a variable in `from=`."""
    for item in split_fields(text):
        key, separator, value = item.partition("=")
        if separator and key.lower() == "from" and re.search(r"\$.", value):
            raise ValueError(f"'{key.lower()}' doesn't support variable expansion, define alias stage instead")


def mount_from(text: str) -> str:
    """The stage, named context or image of a checked mount's `from=`, "" where it has none."""
    found = ""
    for item in split_fields(text):
        key, separator, value = item.partition("=")
        if separator and key.lower() == "from":
            found = value
    return found


def parse_mount(text: str, expand: Callable[[str], str]) -> Mount:
    """The mount that `text` describes, each value put through `expand`. ValueError with BuildKit's reason."""
    mount, readonly = Mount(), None
    for item in split_fields(text):
        key, separator, value = item.partition("=")
        key = key.lower()
        if not separator:
            value = _bare(mount, key, item)
        elif key in _READONLY:
            value = expand(value)
        else:
            mount = _set(mount, key, expand(value), item)
            continue
        if key == "required":
            mount = replace(mount, required=True)
        else:
            readonly = _bool(key, value) is (key in ("readonly", "ro"))
    if readonly is None:
        readonly = mount.type not in (MountType.CACHE, MountType.TMPFS)
    mount = replace(mount, readonly=readonly)
    _validate(mount)
    return mount


def parse_device(text: str) -> Device:
    """`vendor.com/class=name[,required]` or `name=…[,required=true]`."""
    name, required = "", False
    for item in split_fields(text):
        key, separator, value = item.partition("=")
        match key.lower():
            case "required":
                required = _bool(key.lower(), value) if separator else True
            case "name" if separator:
                if name:
                    raise ValueError(f"device name already set to {name}")
                name = value
            case _ if not name:
                name = item
            case _ if not separator:
                raise ValueError(f"invalid field '{item}' must be a key=value pair")
            case other:
                raise ValueError(f"unexpected key '{other}' in '{item}'{did_you_mean(other, ('name', 'required'))}")
    return Device(name=name, required=required)


def split_fields(text: str) -> list[str]:
    """The fields of one line of comma-separated values (RFC 4180). ValueError for a stray quote or an empty line."""
    if not text:
        raise ValueError("failed to parse csv mounts: no field")
    fields: list[str] = []
    position = 0
    while True:
        match = _FIELD.match(text, position)
        if match is None:
            raise ValueError(f"failed to parse csv mounts: stray quote in field {len(fields) + 1} of {text!r}")
        quoted = match["quoted"]
        fields.append(match["plain"] if quoted is None else quoted.replace('""', '"'))
        if match.end() == len(text):
            return fields
        position = match.end() + 1


_READONLY = frozenset({"readonly", "ro", "readwrite", "rw"})


def _bare(mount: Mount, key: str, item: str) -> str:
    """The value of a key that stands alone: "true", where it may."""
    if key in _READONLY:
        return "true"
    if key != "required":
        raise ValueError(f"invalid field '{item}' must be a key=value pair")
    _only(mount, key, MountType.SECRET, MountType.SSH)
    return "true"


def _set(mount: Mount, key: str, value: str, item: str) -> Mount:
    match key:
        case "from":
            return replace(mount, source_stage=value)
        case "source" | "src":
            return replace(mount, source=value)
        case "target" | "dst" | "destination":
            return replace(mount, target=value)
        case "id":
            return replace(mount, id=value)
        case _:
            return _set_checked(mount, key, value, item)


def _set_checked(mount: Mount, key: str, value: str, item: str) -> Mount:
    """The keys whose values are not just any text."""
    match key:
        case "type":
            return replace(mount, type=_member(MountType, value, f'unsupported mount type "{value}"'))
        case "sharing":
            return replace(mount, sharing=_member(ShareMode, value, f'unsupported sharing value "{value}"'))
        case "mode":
            return replace(mount, mode=_number(key, value, base=8))
        case "uid":
            return replace(mount, uid=_number(key, value))
        case "gid":
            return replace(mount, gid=_number(key, value))
        case _:
            return _set_typed(mount, key, value, item)


def _set_typed(mount: Mount, key: str, value: str, item: str) -> Mount:
    """The keys that only some types have."""
    match key:
        case "required":
            _only(mount, key, MountType.SECRET, MountType.SSH)
            return replace(mount, required=_bool(key, value))
        case "size":
            _only(mount, key, MountType.TMPFS)
            return replace(mount, size=parse_size(value))
        case "env":
            _only(mount, key, MountType.SECRET)
            return replace(mount, env=value)
        case _:
            raise ValueError(f"unexpected key '{key}' in '{item}'{did_you_mean(key, _KEYS.split())}")


def _validate(mount: Mount) -> None:
    kind = mount.type
    if kind not in (MountType.SECRET, MountType.SSH, MountType.CACHE):
        for key, value in (("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)):
            if value is not None:
                raise ValueError(f'{key} not allowed for "{kind}" type mounts')
    if kind is MountType.SECRET:
        _validate_secret(mount)
    if mount.sharing is not None and kind is not MountType.CACHE:
        raise ValueError(f"invalid cache sharing set for {kind} mount")


def _validate_secret(mount: Mount) -> None:
    if mount.source_stage:
        raise ValueError("secret mount should not have a from")
    if mount.sharing is not None:
        raise ValueError("secret mount should not define sharing")
    if not (mount.source or mount.target or mount.id):
        raise ValueError("invalid secret mount. one of source, target required")
    if mount.source and mount.id:
        raise ValueError("both source and id can't be set")


def _only(mount: Mount, key: str, *types: MountType) -> None:
    if mount.type not in types:
        raise ValueError(f"unexpected key '{key}' for mount type '{mount.type}'")


def _member(kind: type[_Choice], value: str, reason: str) -> _Choice:
    try:
        return kind(value.lower())
    except ValueError:
        raise ValueError(reason + did_you_mean(value, list(kind))) from None


def _bool(key: str, value: str) -> bool:
    """As Go's strconv.ParseBool."""
    if value not in _TRUE | _FALSE:
        raise ValueError(f"invalid value for {key}: {value}")
    return value in _TRUE


def _number(key: str, value: str, *, base: int = 10) -> int:
    if not re.fullmatch(r"[0-7]{1,16}" if base == 8 else r"\d{1,16}", value, re.ASCII) or int(value, base) >= 2**32:
        raise ValueError(f"invalid value {value} for {key}")
    return int(value, base)


def parse_size(value: str) -> int:
    """`64m`, `1.5GiB`, `4096`: bytes, in powers of 1024."""
    match = _SIZE.fullmatch(value)
    if match is None or len(value) > 32:
        raise ValueError(f"invalid value for size: {value}")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))
