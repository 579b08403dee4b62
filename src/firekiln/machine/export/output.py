"""What an export shall become: a closed union of formats, and Docker's `-o/--output` that says it.

`-o DIR` is type=local, `-o -` is type=tar to standard output; else it is a line of CSV whose fields are KEY=VALUE
(docs.docker.com/build/exporters). Each format has the keys that mean something to it, and refuses others.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Final, TypeAlias, assert_never

from firekiln.errors import UsageError
from firekiln.rootfs.algorithm import Compression
from firekiln.rootfs.ext4 import Size
from firekiln.values import dataclass

STDOUT: Final = "-"
SQUASHFS_COMPRESSIONS: Final = ("gzip", "lz4", "lzo", "xz", "zstd", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """A flat image that boots by itself. `hostname` "" is the beginning of the image's digest."""

    hostname: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ext4:
    """`boot` None: nothing but the image's own files; `verity`: with a tree of hashes behind it, which PID 1 has
    checked. So with all formats that have them.
    """

    dest: str
    size: Size = field(default_factory=Size)
    label: str = ""
    uuid: str | None = None
    verity: bool = False
    boot: Boot | None = field(default_factory=Boot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2:
    """An ext4 file system in a qcow2 file; `compressed`: its clusters are (zlib)."""

    dest: str
    size: Size = field(default_factory=Size)
    label: str = ""
    uuid: str | None = None
    compressed: bool = False
    verity: bool = False
    boot: Boot | None = field(default_factory=Boot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A disk with a boot loader, a kernel and an ext4 file system: see disk.py. `append`: more words for the kernel."""

    dest: str
    size: Size = field(default_factory=Size)
    label: str = ""
    uuid: str | None = None
    verity: bool = False
    append: str = ""
    boot: Boot = field(default_factory=Boot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Erofs:
    dest: str
    verity: bool = False
    boot: Boot | None = field(default_factory=Boot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Squashfs:
    """`compression` is one of SQUASHFS_COMPRESSIONS."""

    dest: str
    compression: str = "zstd"
    verity: bool = False
    boot: Boot | None = field(default_factory=Boot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpio:
    dest: str
    compression: Compression = Compression.NONE
    boot: Boot | None = field(default_factory=Boot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tar:
    """The image's files as one archive; `dest` may be STDOUT."""

    dest: str
    compression: Compression = Compression.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class OciArchive:
    """An OCI image layout in a tar, its layers kept apart; `dest` may be STDOUT. `name` replaces the image's names."""

    dest: str
    compression: Compression = Compression.GZIP
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The image's files in a folder of the host."""

    dest: str


FileSystem: TypeAlias = Ext4 | Qcow2 | Erofs | Squashfs | Cpio
"""Formats of one flat file system, which may boot."""
Output: TypeAlias = FileSystem | Raw | Tar | OciArchive | Folder


def parse_output(text: str) -> Output:
    """One `-o`. UsageError where it is none."""
    fields = _fields(text)
    kind = fields.pop("type", "").lower()
    if not kind:
        raise UsageError(f"--output {text}: type is required", hint=f"types are {', '.join(sorted(_TYPES))}")
    make = _TYPES.get(kind)
    if make is None:
        hint = _LATER.get(kind, f"types are {', '.join(sorted(_TYPES))}")
        raise UsageError(f"--output {text}: there is no output of type {kind}", hint=hint)
    words = _Words(text=text, kind=kind, fields=fields)
    made = make(words)
    if fields:
        raise UsageError(f"--output {text}: type={kind} has no {', '.join(sorted(fields))}")
    return made


def with_verity(output: Output) -> Output:
    """The same with `verity`. UsageError where the format can't."""
    match output:
        case Ext4() | Qcow2() | Erofs() | Squashfs() | Raw():
            if output.boot is None:
                raise UsageError("verity needs a command line for the root hash, and what doesn't boot has none")
            return replace(output, verity=True)
        case Cpio() | Tar() | OciArchive() | Folder():
            hint = "ext4, erofs, squashfs, qcow2 and raw have it"
            raise UsageError(f"--verity: {output.dest} is of a type without", hint=hint)
        case _:
            assert_never(output)


_BARE: Final = frozenset({"verity"})
"""Keys that may stand without a value."""


def _fields(text: str) -> dict[str, str]:
    if text == STDOUT:
        return {"type": "tar", "dest": STDOUT}
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise UsageError(f"--output {text}: {error}") from None
    parts = rows[0] if rows else []
    if len(parts) == 1 and not parts[0].startswith("type=") and "=" not in parts[0]:
        return {"type": "local", "dest": text}
    fields: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if name in _BARE and not equals:
            equals, value = "=", "true"
        if not equals or not name.strip():
            raise UsageError(f'--output {text}: invalid field "{part}" must be a key=value pair')
        fields[name.strip().lower()] = value
    if not fields:
        raise UsageError("--output: it is empty", hint="give a folder, or type=ext4,dest=FILE")
    return fields


_TRUE: Final = frozenset({"true", "1", "yes"})
_FALSE: Final = frozenset({"false", "0", "no"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """The fields of an output; each is taken once, what is left at the end is not known."""

    text: str
    kind: str
    fields: dict[str, str]

    def dest(self, default: str = "") -> str:
        value = self.fields.pop("dest", "") or default
        if not value:
            raise UsageError(f"--output {self.text}: dest is required for type={self.kind}")
        if value == STDOUT and default != STDOUT:
            raise UsageError(
                f"--output {self.text}: type={self.kind} can't be written to standard output", hint="give dest=FILE"
            )
        return value

    def take(self, key: str, default: str = "") -> str:
        return self.fields.pop(key, default)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.take(key, str(default)).lower()
        if value not in _TRUE | _FALSE:
            raise UsageError(f"--output {self.text}: {key} is true or false, not {value!r}")
        return value in _TRUE

    def verity(self) -> bool:
        wanted = self.flag("verity", default=False)
        if wanted and self.fields.get("boot", "true").lower() in _FALSE:
            raise UsageError(
                f"--output {self.text}: verity needs a command line for the root hash, and what doesn't boot has none"
            )
        return wanted

    def boot(self) -> Boot | None:
        hostname = self.take("hostname")
        if not self.flag("boot", default=True):
            if hostname:
                raise UsageError(f"--output {self.text}: what doesn't boot has no hostname")
            return None
        if len(hostname) > 64 or re.search(r"[^A-Za-z0-9.-]", hostname):
            raise UsageError(f"--output {self.text}: {hostname!r} is no host name")
        return Boot(hostname=hostname)

    def size(self) -> Size:
        text = self.take("size")
        if not text:
            return Size()
        amount = parse_size(text.removeprefix("+"))
        return Size(extra=amount) if text.startswith("+") else Size(total=amount)

    def compression(self, default: Compression) -> Compression:
        word = self.take("compression", str(default)).lower()
        known = {"none": Compression.NONE, "uncompressed": Compression.NONE}
        known |= {"gzip": Compression.GZIP, "zstd": Compression.ZSTD}
        if word not in known:
            raise UsageError(
                f"--output {self.text}: there is no compression {word}", hint="it is gzip, zstd or uncompressed"
            )
        return known[word]


_UNITS: Final[Mapping[str, int]] = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def parse_size(text: str) -> int:
    """`2G`, `500M`, `1.5g`, `4096`, with `iB` or `B` behind if liked: bytes, the units binary. UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"size={text}: give it as 2G, or +500M for so much room beside the content")
    return int(float(found[1]) * (1 << _UNITS[found[2].upper()]))


def _ext4(words: _Words) -> Ext4:
    return Ext4(
        dest=words.dest(),
        size=words.size(),
        label=words.take("label"),
        uuid=words.take("uuid") or None,
        verity=words.verity(),
        boot=words.boot(),
    )


def _raw(words: _Words) -> Raw:
    append = words.take("append")
    if re.search(r"[^ -~]|[\\'\"${}|&;<>#]", append):
        raise UsageError(f"--output {words.text}: append has characters that GRUB would take for its own")
    made = _ext4(words)
    if made.boot is None:
        raise UsageError(
            f"--output {words.text}: a disk of type=raw is made to boot", hint="type=ext4,boot=false has data only"
        )
    return Raw(
        dest=made.dest,
        size=made.size,
        label=made.label,
        uuid=made.uuid,
        verity=made.verity,
        append=append,
        boot=made.boot,
    )


def _erofs(words: _Words) -> Erofs:
    return Erofs(dest=words.dest(), verity=words.verity(), boot=words.boot())


def _qcow2(words: _Words) -> Qcow2:
    compression = words.take("compression", "none")
    if compression not in ("none", "uncompressed", "zlib"):
        raise UsageError(f"--output {words.text}: qcow2's compression is zlib or none")
    return Qcow2(
        dest=words.dest(),
        size=words.size(),
        label=words.take("label"),
        uuid=words.take("uuid") or None,
        compressed=compression == "zlib",
        verity=words.verity(),
        boot=words.boot(),
    )


def _squashfs(words: _Words) -> Squashfs:
    compression = words.take("compression", "zstd").lower()
    if compression not in SQUASHFS_COMPRESSIONS:
        raise UsageError(
            f"--output {words.text}: squashfs has no compression {compression}",
            hint=f"it is {', '.join(SQUASHFS_COMPRESSIONS)}",
        )
    return Squashfs(dest=words.dest(), compression=compression, verity=words.verity(), boot=words.boot())


_TYPES: Final[Mapping[str, Callable[[_Words], Output]]] = {
    "ext4": _ext4,
    "erofs": _erofs,
    "squashfs": _squashfs,
    "cpio": lambda words: Cpio(dest=words.dest(), compression=words.compression(Compression.NONE), boot=words.boot()),
    "qcow2": _qcow2,
    "raw": _raw,
    "tar": lambda words: Tar(dest=words.dest(STDOUT), compression=words.compression(Compression.NONE)),
    "oci": lambda words: OciArchive(
        dest=words.dest(STDOUT), compression=words.compression(Compression.GZIP), name=words.take("name")
    ),
    "local": lambda words: Folder(dest=words.dest()),
    "dir": lambda words: Folder(dest=words.dest()),
}
_LATER: Final[Mapping[str, str]] = {
    "docker": "images stay in firekiln's own store; type=oci gives an archive that others load",
    "image": "images are kept in the store anyway; name them with -t",
    "registry": "registries are not supported yet",
}
