"""The kernels of a store: `<root>/kernels/<digest>/` holds `kernel.json`, `vmlinux` and `modules/*.ko`.

A kernel for disks (kind `generic`) lies there as its boot loader wants it: a bzImage, `vmlinuz`, in place of the ELF.

`kernel.json` lists every file with its digest, and its own digest (sha256 of its bytes) names the folder: a kernel is
immutable and appears whole, by one rename, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from firekiln.errors import MachineError
from firekiln.machine.kernel.arm64 import extract_image, is_image
from firekiln.machine.kernel.bzimage import ELF_MAGIC, extract_elf, payload
from firekiln.machine.kernel.modules import load_order
from firekiln.store import Store
from firekiln.store.durable import fsync_directory
from firekiln.store.temporary import Temporary
from firekiln.values import dataclass

Kind = Literal["own", "debian", "file", "generic"]
_DESCRIPTION = "kernel.json"
_PREFERENCE: Mapping[str, int] = {"own": 1, "debian": 0, "generic": -1}
"""Our own kernel boots in a third of the time of Debian's, so it is taken where it is present."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A loadable module, its file, and the names of those that it needs."""

    name: str
    path: Path
    depends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a kernel of our own was made from. `source` is the version of Debian's source package; `configuration` is
    the digest of what we ask for; `compiler` names compiler and linker with their versions.
    """

    source: str
    configuration: str
    compiler: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel that a machine can boot: an ELF file (a bzImage for disks) and the modules that it may need.

    `features` are those of FEATURES that it has, built in or as modules; empty where that is not known (kind `file`).
    `recipe` is there where it was built here.
    """

    kind: Kind
    version: str
    architecture: str
    digest: str
    image: Path
    modules: tuple[Module, ...] = ()
    features: frozenset[str] = frozenset()
    recipe: Recipe | None = None

    def modules_for(self, wanted: Iterable[str]) -> tuple[Module, ...]:
        """The modules to load for `wanted`, in order; what is built in (or unknown) needs none."""
        known = {module.name: module for module in self.modules}
        order = load_order(wanted, {name: module.depends for name, module in known.items()})
        return tuple(known[name] for name in order)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewModule:
    """A module on its way into the store."""

    name: str
    data: bytes
    depends: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKernel:
    """A kernel on its way into the store; `image` is the ELF file's bytes, or the bzImage's for disks."""

    kind: Kind
    version: str
    architecture: str
    image: bytes
    modules: tuple[NewModule, ...] = ()
    features: frozenset[str] = frozenset()
    recipe: Recipe | None = None


def kernels(root: Path) -> list[Kernel]:
    """The kernels of the store that machines can boot, the preferred first: our own, then the newest."""
    return [kernel for kernel in _all(root) if kernel.kind != "generic"]


def generic_kernels(root: Path) -> list[Kernel]:
    """The kernels of the store for disks, the newest first."""
    return [kernel for kernel in _all(root) if kernel.kind == "generic"]


def _all(root: Path) -> list[Kernel]:
    return sorted((_read(folder) for folder in _folders(root)), key=_rank, reverse=True)


def default_kernel(
    root: Path, architecture: str, *, generic: bool = False, features: frozenset[str] = frozenset()
) -> Kernel | None:
    """The kernel that a machine of `architecture` boots where the user names none, or a disk carries where `generic`.

    None where the store has none with these `features`.
    """
    for kernel in generic_kernels(root) if generic else kernels(root):
        if kernel.architecture == architecture and features <= kernel.features:
            return kernel
    return None


def intact_kernel(
    store: Store, architecture: str, *, generic: bool = False, features: frozenset[str] = frozenset()
) -> Kernel | None:
    """As `default_kernel`, but each file's bytes are those that the description says; damaged kernels are set aside."""
    folders = _folders(store.root)
    for folder in folders:
        if not _is_described(folder):
            store.integrity.set_aside(folder)
    for _ in folders:  # each turn sets one aside, unless the disk may only be read
        kernel = default_kernel(store.root, architecture, generic=generic, features=features)
        if kernel is None:
            break
        folder = kernel.image.parent
        document = json.loads((folder / _DESCRIPTION).read_bytes())
        files = (document["image"], *document["modules"])
        if all(store.integrity.is_intact(folder / item["file"], item["digest"]) for item in files):
            return kernel
        store.integrity.set_aside(folder)
    return None


def add(root: Path, new: NewKernel) -> Kernel:
    """Put a kernel into the store and give it back as it lies there. Idempotent; safe against a kill at any point."""
    document = _document(new)
    digest = hashlib.sha256(document).hexdigest()
    folder = _folder(root)
    target = folder / digest
    if not target.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(Temporary(root / "tmp")) as temporary:
            made = temporary.folder / digest
            made.mkdir()
            _write_all(made, document, new)
            _rename(made, target)
    return _read(target)


def kernel_file(root: Path, path: Path, architecture: str) -> Kernel:
    """The kernel of a file that the user names: an ELF file (arm64: an Image) is used in place, one that is packed in
    another (a bzImage, Image.gz) is cached in the store.

    MachineError where it is neither. Nothing is known of modules: such a kernel must have all drivers built in.
    """
    data = _bytes_of(path)
    digest = hashlib.sha256(data).hexdigest()
    image = path.absolute()
    if not (is_image(data) if architecture == "arm64" else data.startswith(ELF_MAGIC)):
        image = root / "machines" / "cache" / f"kernel-{digest}"
        if not image.exists():
            elf = extract_image(data) if architecture == "arm64" else extract_elf(data)
            image.parent.mkdir(parents=True, exist_ok=True)
            with closing(Temporary(root / "tmp")) as temporary:
                made = temporary.folder / digest
                _write(made, elf)
                made.replace(image)
    return Kernel(kind="file", version=path.name, architecture=architecture, digest=f"sha256:{digest}", image=image)


def bzimage_file(path: Path, architecture: str) -> Kernel:
    """The kernel of a file that the user names, as boot loaders want it: a bzImage. MachineError where it is none."""
    data = _bytes_of(path)
    payload(data)
    digest = hashlib.sha256(data).hexdigest()
    return Kernel(kind="file", version=path.name, architecture=architecture, digest=f"sha256:{digest}", image=path)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MachineError(f"{path}: the kernel cannot be read: {error.strerror}") from error


def _folder(root: Path) -> Path:
    return root / "kernels"


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in _folder(root).iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []


def _is_described(folder: Path) -> bool:
    """Whether the description is the one that names the folder."""
    try:
        return hashlib.sha256((folder / _DESCRIPTION).read_bytes()).hexdigest() == folder.name
    except FileNotFoundError:
        return False


def _document(new: NewKernel) -> bytes:
    def file(name: str, data: bytes) -> dict[str, Any]:
        return {"file": name, "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size": len(data)}

    document = {
        "schemaVersion": 1,
        "kind": new.kind,
        "version": new.version,
        "architecture": new.architecture,
        "features": sorted(new.features),
        **({"recipe": asdict(new.recipe)} if new.recipe else {}),
        "image": file(_image_name(new), new.image),
        "modules": [
            {"name": m.name, "depends": list(m.depends), **file(f"modules/{m.name}.ko", m.data)} for m in new.modules
        ],
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _image_name(new: NewKernel) -> str:
    return "vmlinuz" if new.kind == "generic" else "vmlinux"


def _write_all(folder: Path, document: bytes, new: NewKernel) -> None:
    folder.chmod(0o755)
    (folder / "modules").mkdir()
    _write(folder / _image_name(new), new.image)
    for module in new.modules:
        _write(folder / "modules" / f"{module.name}.ko", module.data)
    _write(folder / _DESCRIPTION, document)
    fsync_directory(folder / "modules")
    fsync_directory(folder)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _rename(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not target.exists():  # else another process was faster, with the same bytes
            raise
    fsync_directory(target.parent)


def _read(folder: Path) -> Kernel:
    try:
        data = json.loads((folder / _DESCRIPTION).read_bytes())
        return Kernel(
            kind=data["kind"],
            version=data["version"],
            architecture=data["architecture"],
            digest=f"sha256:{folder.name}",
            image=folder / data["image"]["file"],
            modules=tuple(
                Module(name=item["name"], path=folder / item["file"], depends=tuple(item["depends"]))
                for item in data["modules"]
            ),
            features=frozenset(data["features"]),
            recipe=Recipe(**data["recipe"]) if "recipe" in data else None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MachineError(
            f"{folder}: the kernel's description is damaged: {error}", hint=f"remove {folder} and pull it again"
        ) from error


def _rank(kernel: Kernel) -> tuple[int, list[tuple[int, int, str]], int]:
    """Sorts by preference, then by version, numbers in it as numbers (6.1.9 before 6.1.10), then by what it can do."""
    words = re.findall(r"\d+|\D+", kernel.version)
    numbers = [(1, int(word), "") if word.isdigit() else (0, 0, word) for word in words]
    return _PREFERENCE.get(kernel.kind, -1), numbers, len(kernel.modules)
