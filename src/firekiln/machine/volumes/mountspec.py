"""What `-v`, `--mount`, `--tmpfs` and an image's VOLUME ask for, in Docker's grammar. Pure.

-v NAME:/path[:OPTIONS]   -v /host:/path[:OPTIONS]   -v /path          moby's volume/mounts/linux_parser.go
--mount type=volume|bind|tmpfs,source=…,target=…,…                     docker/cli's opts/mount.go
--tmpfs /path[:OPTIONS]
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Literal, TypeAlias

from firekiln.errors import UsageError
from firekiln.values import dataclass

Kind: TypeAlias = Literal["volume", "bind", "tmpfs"]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgtp]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_TMPFS_FLAGS = ("noexec", "nosuid", "nodev")
"""Docker's for every tmpfs; what is asked for comes after them and wins."""
_MEANINGLESS = frozenset("z Z cached delegated consistent default private rprivate".split())
"""Labels, caches and the propagation that is there anyway: nothing is lost by leaving them out."""
_PROPAGATING = frozenset("shared rshared slave rslave".split())
_TRUTH = {"": True, "1": True, "true": True, "t": True, "0": False, "false": False, "f": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSpec:
    """One mount that was asked for.

    target         absolute path in the guest, cleaned, not /
    source         a volume's name ("" for an anonymous one), or an absolute path of the host
    copy           a new or empty volume gets what the image has at `target`
    create_source  a directory of the host that is missing is made, as -v does and --mount does not
    subpath        the folder of a volume that is meant
    size, mode, options   a tmpfs's: bytes (0: the kernel's default), and words of mount(8)
    labels, volume_options   of a volume that is made for this
    """

    kind: Kind
    target: str
    source: str = ""
    read_only: bool = False
    copy: bool = True
    create_source: bool = False
    subpath: str | None = None
    size: int = 0
    mode: int = 0o1777
    options: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    volume_options: Mapping[str, str] = field(default_factory=dict)


def parse_volume(text: str) -> MountSpec:
    """`-v`'s argument. A source that begins with a dot is relative to the working directory. UsageError."""
    parts = text.split(":")
    if not all(parts) or len(parts) > 3:
        raise _invalid(text)
    if len(parts) == 1:
        return MountSpec(kind="volume", target=_target(parts[0], text))
    source, target, *rest = parts
    if not rest and _is_mode(target):
        raise _invalid(text)
    spec = _sourced(source, _target(target, text), text)
    for word in rest[0].split(",") if rest else ():
        spec = _with_word(spec, word, text)
    return spec


def parse_tmpfs(text: str) -> MountSpec:
    """`--tmpfs`'s argument. UsageError."""
    target, _, words = text.partition(":")
    spec = MountSpec(kind="tmpfs", target=_target(target, text), options=_TMPFS_FLAGS)
    for word in filter(None, words.split(",")):
        key, _, value = word.partition("=")
        if key == "size" and not value.endswith("%"):
            spec = replace(spec, size=_size(value, text))
        elif key == "mode":
            spec = replace(spec, mode=_mode(value, text))
        else:
            spec = replace(spec, options=(*spec.options, word))
    return spec


def parse_mount(text: str) -> MountSpec:
    """`--mount`'s argument: comma-separated `key=value` pairs, quoted as CSV. UsageError."""
    import csv  # noqa: PLC0415 - every start of a machine loads this module

    try:
        (fields,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise UsageError(f"--mount {text}: not a list of key=value pairs") from error
    kind = _kind(fields, text)
    spec = MountSpec(kind=kind, target="", options=_TMPFS_FLAGS if kind == "tmpfs" else ())
    for item in fields:
        key, equals, value = item.partition("=")
        key = key.strip().lower()
        if not equals and key not in _SWITCHES:
            raise UsageError(f"invalid field '{item}' must be a key=value pair", hint=_MOUNT_HINT)
        spec = _with_field(spec, key, value, text)
    return _checked(spec, text)


def parse_size(text: str) -> int | None:
    """`512m`, `10g`, `1.5GiB` in bytes; None for what is no size."""
    found = _SIZE.fullmatch(text.strip())
    return int(float(found[1]) * (1 << _UNITS[found[2].lower()])) if found else None


def is_volume_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def combine(specs: Iterable[MountSpec], image_volumes: Iterable[str]) -> tuple[MountSpec, ...]:
    """What is mounted in all, in the order of mounting: what lies below another comes after it.

    VOLUMEs of the image become anonymous volumes where nothing else is mounted there. UsageError for two at one place.
    """
    made: dict[str, MountSpec] = {}
    for spec in specs:
        if spec.target in made:
            raise UsageError(f"Duplicate mount point: {spec.target}")
        made[spec.target] = spec
    for path in image_volumes:
        target = posixpath.normpath("/" + path.lstrip("/"))
        if target != "/":
            made.setdefault(target, MountSpec(kind="volume", target=target))
    return tuple(sorted(made.values(), key=lambda spec: (spec.target.count("/"), spec.target)))


def _sourced(source: str, target: str, text: str) -> MountSpec:
    if source.startswith("."):
        source = posixpath.abspath(source)
    if source.startswith("/"):
        return MountSpec(kind="bind", source=posixpath.normpath(source), target=target, create_source=True)
    if not is_volume_name(source):
        raise UsageError(
            f'{text}: "{source}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed',
            hint="if you meant a folder of this host, give an absolute path, or one that begins with ./",
        )
    return MountSpec(kind="volume", source=source, target=target)


def _with_word(spec: MountSpec, word: str, text: str) -> MountSpec:
    match word:
        case "ro":
            return replace(spec, read_only=True)
        case "nocopy" if spec.kind == "volume":
            return replace(spec, copy=False)
        case _ if word == "rw" or word in _MEANINGLESS:
            return spec
        case _ if word in _PROPAGATING:
            raise _no_propagation(word)
    raise UsageError(f"invalid mode: {word} (in {text})", hint="ro, rw and nocopy are known")


def _is_mode(text: str) -> bool:
    return all(word in _MEANINGLESS | _PROPAGATING | {"ro", "rw", "nocopy"} for word in text.split(","))


_MOUNT_HINT = "for example --mount type=volume,source=data,target=/var/lib/data,readonly"


def _kind(fields: Sequence[str], text: str) -> Kind:
    kinds = [value for key, _, value in (item.partition("=") for item in fields) if key.strip().lower() == "type"]
    match kinds[-1].lower() if kinds else "volume":
        case "volume":
            return "volume"
        case "bind":
            return "bind"
        case "tmpfs":
            return "tmpfs"
        case other:
            raise UsageError(f"--mount {text}: mount type unknown: {other}", hint="volume, bind and tmpfs are known")


_Apply: TypeAlias = Callable[[MountSpec, str, str], MountSpec]


def _switch(name: str, value: str, text: str) -> bool:
    truth = _TRUTH.get(value.lower())
    if truth is None:
        raise UsageError(f"invalid value for {name}: {value} (in --mount {text})", hint="true or false")
    return truth


def _set_driver(spec: MountSpec, value: str, text: str) -> MountSpec:
    if value != "local":
        raise UsageError(f"--mount {text}: there is no volume driver {value}", hint="volumes are drives of this store")
    return spec


def _set_propagation(spec: MountSpec, value: str, _text: str) -> MountSpec:
    if value in _PROPAGATING:
        raise _no_propagation(value)
    return spec


def _set_label(spec: MountSpec, value: str, _text: str) -> MountSpec:
    key, _, label = value.partition("=")
    return replace(spec, labels={**spec.labels, key: label})


def _set_volume_option(spec: MountSpec, value: str, _text: str) -> MountSpec:
    key, _, option = value.partition("=")
    return replace(spec, volume_options={**spec.volume_options, key: option})


def _set_tmpfs_option(spec: MountSpec, value: str, _text: str) -> MountSpec:
    return replace(spec, options=(*spec.options, value))


_SET_SOURCE: _Apply = lambda spec, value, _: replace(spec, source=value)  # noqa: E731 - a table's entry, of two names
_SET_TARGET: _Apply = lambda spec, value, text: replace(spec, target=_target(value, text))  # noqa: E731 - ditto
_SET_READ_ONLY: _Apply = lambda spec, value, text: replace(spec, read_only=_switch("readonly", value, text))  # noqa: E731 - ditto
_KEEP: _Apply = lambda spec, _value, _text: spec  # noqa: E731 - ditto

_SWITCHES = frozenset("readonly ro volume-nocopy bind-nonrecursive bind-create-src".split())
_FIELDS: Mapping[str, tuple[Kind | None, _Apply]] = {
    "type": (None, _KEEP),
    "source": (None, _SET_SOURCE),
    "src": (None, _SET_SOURCE),
    "target": (None, _SET_TARGET),
    "dst": (None, _SET_TARGET),
    "destination": (None, _SET_TARGET),
    "readonly": (None, _SET_READ_ONLY),
    "ro": (None, _SET_READ_ONLY),
    "consistency": (None, _KEEP),
    "bind-propagation": ("bind", _set_propagation),
    "bind-nonrecursive": ("bind", _KEEP),
    "bind-recursive": ("bind", _KEEP),
    "bind-create-src": ("bind", lambda spec, value, text: replace(spec, create_source=_switch("it", value, text))),
    "volume-nocopy": (
        "volume",
        lambda spec, value, text: replace(spec, copy=not _switch("volume-nocopy", value, text)),
    ),
    "volume-subpath": ("volume", lambda spec, value, _: replace(spec, subpath=value)),
    "volume-label": ("volume", _set_label),
    "volume-driver": ("volume", _set_driver),
    "volume-opt": ("volume", _set_volume_option),
    "tmpfs-size": ("tmpfs", lambda spec, value, text: replace(spec, size=_size(value, text))),
    "tmpfs-mode": ("tmpfs", lambda spec, value, text: replace(spec, mode=_mode(value, text))),
    "tmpfs-options": ("tmpfs", _set_tmpfs_option),
}
"""The fields of --mount, the kind of mount that has them (None: each), and what they do."""


def _with_field(spec: MountSpec, key: str, value: str, text: str) -> MountSpec:
    if key not in _FIELDS:
        raise UsageError(f"unexpected key '{key}' in '{key}={value}'", hint=_MOUNT_HINT)
    kind, apply = _FIELDS[key]
    if kind is not None and kind != spec.kind:
        raise UsageError(f"cannot mix '{key.partition('-')[0]}-*' options with mount type '{spec.kind}'")
    return apply(spec, value, text)


def _checked(spec: MountSpec, text: str) -> MountSpec:
    if not spec.target:
        raise _lacking(spec, "field Target must not be empty", text)
    match spec.kind:
        case "bind":
            return _checked_bind(spec, text)
        case "tmpfs" if spec.source:
            raise _lacking(spec, "field Source must not be specified", text)
        case "volume" if spec.source and not is_volume_name(spec.source):
            raise UsageError(f'--mount {text}: "{spec.source}" is no name for a volume')
        case "volume" if spec.subpath is not None and not _is_inside(spec.subpath):
            raise UsageError(f"--mount {text}: volume-subpath has to be a relative path without ..")
    return spec


def _checked_bind(spec: MountSpec, text: str) -> MountSpec:
    if not spec.source:
        raise _lacking(spec, "field Source must not be empty", text)
    source = posixpath.abspath(spec.source) if spec.source.startswith(".") else spec.source
    if not source.startswith("/"):
        raise UsageError(f"invalid mount path: '{source}' mount path must be absolute")
    return replace(spec, source=posixpath.normpath(source))


def _lacking(spec: MountSpec, what: str, text: str) -> UsageError:
    return UsageError(f'invalid mount config for type "{spec.kind}": {what} (in {text})', hint=_MOUNT_HINT)


def _is_inside(path: str) -> bool:
    return bool(path) and not path.startswith("/") and ".." not in path.split("/")


def _target(path: str, text: str) -> str:
    if not path.startswith("/"):
        raise UsageError(f"invalid mount path: '{path}' mount path must be absolute (in {text})")
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if clean == "/":
        raise UsageError(f"invalid specification: destination can't be '/' (in {text})")
    return clean


def _size(value: str, text: str) -> int:
    size = parse_size(value)
    if size is None:
        raise UsageError(f"invalid size: '{value}' (in {text})", hint="write it like 64m or 1g")
    return size


def _mode(value: str, text: str) -> int:
    if not re.fullmatch(r"[0-7]{1,6}", value):
        raise UsageError(f"invalid mode: '{value}' (in {text})", hint="write it in octal, like 1777")
    return int(value, 8) & 0o7777


def _invalid(text: str) -> UsageError:
    return UsageError(
        f"invalid volume specification: '{text}'", hint="NAME:/path[:ro], /host/folder:/path[:ro], or /path"
    )


def _no_propagation(word: str) -> UsageError:
    return UsageError(f"{word}: mounts can't propagate between a host and a machine, which has a kernel of its own")
