"""Find the package databases of a Tree, and read them. Nothing is unpacked: readers get bytes, in bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from firekiln.build.sbom import alpine, debian, python, rpm
from firekiln.build.sbom.package import LARGEST_TEXT, Package, System, UnreadError, line
from firekiln.errors import RootfsError
from firekiln.rootfs import lookup
from firekiln.rootfs.tree import Directory, File, Node, Tree, walk
from firekiln.values import dataclass

_OS_RELEASE: Final = ("etc/os-release", "usr/lib/os-release")
_STATUS: Final = "var/lib/dpkg/status"
_STATUS_FOLDER: Final = "var/lib/dpkg/status.d"
_APK: Final = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
_RPM_FOLDERS: Final = ("usr/lib/sysimage/rpm", "var/lib/rpm")
_RPM: Final = "rpmdb.sqlite"
_RPM_OLD: Final = {"Packages.db": "ndb", "Packages": "Berkeley DB"}
_LARGEST_RELEASE: Final = 64 << 10
_MOST_PACKAGES: Final = 500_000
"""Of one kind: a list without an end shall not fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What is installed, in order of kind, name, version and place. `unread` are lines on what could not be read."""

    system: System
    packages: tuple[Package, ...]
    unread: tuple[str, ...]


def scan(tree: Tree) -> Inventory:
    """All packages that the databases of dpkg, apk and rpm, and Python's metadata tell of.

    RootfsError and OSError are the Tree's own.
    """
    found: set[Package] = set()
    unread: list[str] = []
    for read in (_dpkg, _apk, _rpm, _python):
        try:
            found.update(islice(read(tree, unread.append), _MOST_PACKAGES))
        except UnreadError as error:
            unread.append(str(error))
    ordered = sorted(found, key=lambda item: (item.kind, item.name, item.version, item.architecture, item.where))
    return Inventory(system=_system(tree), packages=tuple(ordered), unread=tuple(unread))


_Note = Callable[[str], None]


def _dpkg(tree: Tree, note: _Note) -> Iterator[Package]:
    yield from _texts(tree, (_STATUS,), debian.packages, note)
    folder = _resolved(tree, _STATUS_FOLDER)
    if isinstance(folder, Directory):
        names = sorted(name for name in folder.children if not name.endswith(b".md5sums"))
        paths = (f"{_STATUS_FOLDER}/{name.decode(errors='surrogateescape')}" for name in names)
        yield from _texts(tree, paths, debian.packages, note)


def _apk(tree: Tree, note: _Note) -> Iterator[Package]:
    yield from _texts(tree, _first(tree, _APK), alpine.packages, note)


def _rpm(tree: Tree, note: _Note) -> Iterator[Package]:
    for folder in _first(tree, _RPM_FOLDERS):
        path = f"{folder}/{_RPM}"
        node = _resolved(tree, path)
        if isinstance(node, File):
            log = _resolved(tree, f"{path}-wal")
            if isinstance(log, File) and log.size:
                note(f"/{path}: what its write-ahead log holds is not read")
            yield from rpm.packages(_bytes(node, path, rpm.LARGEST), where=f"/{path}")
        else:
            for name, form in _RPM_OLD.items():
                if isinstance(_resolved(tree, f"{folder}/{name}"), File):
                    note(f"/{folder}/{name}: rpm's database in {form}'s form is not read")


def _python(tree: Tree, _note: _Note) -> Iterator[Package]:
    """All over the Tree: who installs where is not known beforehand."""
    for path, node in walk(tree):
        holder, _, name = path.rpartition(b"/")
        about = holder if name in {b"METADATA", b"PKG-INFO"} else path
        if not isinstance(node, File) or not about.endswith((b".dist-info", b".egg-info")):
            continue
        if about is holder and holder.endswith(b".dist-info") != (name == b"METADATA"):
            continue
        package = python.package(_beginning(node, python.MOST), where=_place(path.decode(errors="surrogateescape")))
        if package is not None:
            yield package


def _system(tree: Tree) -> System:
    """os-release(5). A value may stand in quotes, as in a shell."""
    for path in _OS_RELEASE:
        node = _resolved(tree, path)
        if not isinstance(node, File) or node.size > _LARGEST_RELEASE:
            continue
        rows = (row.partition("=") for row in node.read().decode(errors="replace").splitlines())
        values = {name: line(value).strip("\"'") for name, _, value in rows}
        return System(
            identifier=values.get("ID", ""),
            version=values.get("VERSION_ID", ""),
            name=values.get("PRETTY_NAME", ""),
        )
    return System()


def _texts(tree: Tree, paths: Iterable[str], read: Callable[..., Iterable[Package]], note: _Note) -> Iterator[Package]:
    for path in paths:
        node = _resolved(tree, path)
        if not isinstance(node, File):
            continue
        try:
            text = _bytes(node, path, LARGEST_TEXT).decode(errors="replace")
        except UnreadError as error:
            note(str(error))
            continue
        yield from read(text, where=_place(path))


def _first(tree: Tree, paths: Iterable[str]) -> tuple[str, ...]:
    """The first of `paths` that is there: one may be a link to the other."""
    return next(((path,) for path in paths if _resolved(tree, path) is not None), ())


def _resolved(tree: Tree, path: str) -> Node | None:
    try:
        return lookup.resolve(tree, path.encode(errors="surrogateescape")).node
    except RootfsError:  # a loop of links
        return None


def _bytes(file: File, path: str, most: int) -> bytes:
    if file.size > most:
        raise UnreadError(f"{_place(path)}: {file.size} bytes are too many for what it is")
    return file.read()


def _beginning(file: File, most: int) -> str:
    data = bytearray()
    for chunk in file.chunks():
        data += chunk
        if len(data) >= most:
            break
    return bytes(data[:most]).decode(errors="replace")


def _place(path: str) -> str:
    """The path from the root, for people: a name of the Tree may hold whatever a name may."""
    return "/" + line(path)
