"""ADD of an archive: its members laid over the destination, in their order, by the rules of BuildKit's unpacking.

- Modes, owners and times are the archive's; `--chown` takes the place of all owners, `--chmod` says nothing here.
- Directories are united, everything else is replaced by what comes later, a directory with all that is in it.
- Links to directories are followed, with the destination for root; no name and no link leads out of it.
- Directories that the archive does not name are 0755, root's, and bear the time of the run.
"""

from __future__ import annotations

import posixpath
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from firekiln.build.ops.archive import Archive, Entry, entries, open_archive
from firekiln.build.ops.owner import Ids
from firekiln.build.ops.upper import Made, Overlay, Upper, shown
from firekiln.errors import BuildError
from firekiln.rootfs import lookup
from firekiln.rootfs.tree import (
    Device,
    Directory,
    Extent,
    Fifo,
    File,
    Meta,
    PathSource,
    Socket,
    Symlink,
    Tree,
)

_Leaf: TypeAlias = File | Symlink | Device | Fifo | Socket


def unpack(archive: Archive, overlay: Overlay, path: bytes, made: Made) -> None:
    """Unpack into the directory at `path` (links resolved), made if it is not there. `made.owner` owns all.

    BuildError where the archive is damaged, names a path outside, or holds what no file system has.
    """
    overlay.make_all(path, made)
    unpacker = _Unpacker(overlay, path, made)
    for entry in entries(archive):
        unpacker.add(entry)


def unpacked_file(path: Path, folder: Path) -> Tree | None:
    """What an archive of a root file system, a file of the host, holds; None where it is no archive.

    Its members' content stays in the file, or in an unnamed one in `folder` where the archive is compressed. BuildError
    as `unpack`.
    """
    size = path.stat().st_size
    file = File(meta=Meta(mode=0o600), size=size, extents=(Extent(0, size, PathSource(str(path)), 0),))
    archive = open_archive(file, folder)
    if archive is None:
        return None
    overlay = Overlay(Directory(meta=Meta(mode=0o755)))
    unpack(archive, overlay, b"", Made(mode=0o755, owner=None, mtime_ns=0))
    return overlay.diff()


class _Unpacker:
    """`_names` are the places of the nodes made so far: a hard link's metadata are those of its last member."""

    def __init__(self, overlay: Overlay, path: bytes, made: Made) -> None:
        self._overlay = overlay
        self._path = path
        self._owner = made.owner
        self._implied = Made(mode=0o755, owner=Ids(uid=0, gid=0), mtime_ns=made.mtime_ns)
        self._names: dict[int, tuple[_Leaf, list[tuple[Upper, bytes]]]] = {}

    def add(self, entry: Entry) -> None:
        header = entry.header
        path = _clean(header.name)
        if not path:
            return  # the archive's "./": the destination keeps its own metadata
        path = self._resolve(path, follow_last=header.isdir())
        above, name = posixpath.split(path)
        parent = self._overlay.make_all(_join(self._path, above), self._implied)
        if not name:
            return
        if header.isdir():
            self._directory(parent, name, self._meta(entry))
        elif header.islnk():
            self._link(parent, name, _clean(header.linkname), entry)
        else:
            self._place(_leaf(entry, self._meta(entry)), [(parent, name)])

    def _directory(self, parent: Upper, name: bytes, meta: Meta) -> None:
        known = self._overlay.directory(parent, name)
        if known is None:
            self._overlay.make(parent, name, meta)
        else:
            xattrs = dict(known.meta.xattrs) | dict(meta.xattrs)
            known.meta = replace(meta, xattrs=tuple(sorted(xattrs.items())))

    def _link(self, parent: Upper, name: bytes, target: bytes, entry: Entry) -> None:
        target = self._resolve(target, follow_last=False)
        above, last = posixpath.split(target)
        holder = self._holder(above)
        node = holder.children.get(last) if holder else None
        if holder is None or not isinstance(node, _Leaf):
            raise BuildError(f"link {shown(_join(self._path, target))}: no such file")
        known = self._names.pop(id(node), (node, [(holder, last)]))[1]
        places = [place for place in known if place[0].children.get(place[1]) is node]
        meta = self._meta(entry)
        if isinstance(node, Symlink):
            meta = replace(meta, mode=node.meta.mode)
        again = replace(node, meta=replace(meta, xattrs=meta.xattrs or node.meta.xattrs))
        self._place(again, [place for place in places if place != (parent, name)] + [(parent, name)])

    def _place(self, node: _Leaf, places: list[tuple[Upper, bytes]]) -> None:
        for parent, name in places:
            parent.children[name] = node
        self._names[id(node)] = (node, places)

    def _holder(self, path: bytes) -> Upper | None:
        """The directory at `path` below the destination, ready to be changed, if it is there."""
        upper: Upper | None = self._overlay.root
        for name in _join(self._path, path).split(b"/"):
            if name and upper is not None:
                upper = self._overlay.directory(upper, name)
        return upper

    def _resolve(self, path: bytes, *, follow_last: bool) -> bytes:
        root = self._holder(b"")
        assert root is not None
        return lookup.resolve(root, path, follow_last=follow_last).path

    def _meta(self, entry: Entry) -> Meta:
        header = entry.header
        ids = self._owner or Ids(uid=header.uid, gid=header.gid)
        mode = 0o777 if header.issym() else header.mode & 0o7777
        return Meta(mode=mode, uid=ids.uid, gid=ids.gid, mtime_ns=entry.mtime_ns, xattrs=entry.xattrs)


def _leaf(entry: Entry, meta: Meta) -> _Leaf:
    header = entry.header
    if header.isreg():
        return File(meta=meta, size=header.size, extents=entry.extents)
    if header.issym():
        return Symlink(meta=meta, target=header.linkname.encode(errors="surrogateescape"))
    if header.isfifo():
        return Fifo(meta=meta)
    if header.type in {tarfile.CHRTYPE, tarfile.BLKTYPE}:
        block = header.type == tarfile.BLKTYPE
        return Device(meta=meta, block=block, major=header.devmajor, minor=header.devminor)
    raise BuildError(f"unsupported tar entry {header.name!r} type {header.type!r}")


def _clean(name: str) -> bytes:
    """A member's name without slashes in front, `.` and `..`. BuildError where it leads out of the archive."""
    path = posixpath.normpath(name.lstrip("/") or ".")
    if path == ".." or path.startswith("../"):
        raise BuildError(f"archive path {name!r} is outside extraction root")
    return b"" if path == "." else path.encode(errors="surrogateescape")


def _join(path: bytes, below: bytes) -> bytes:
    return path + b"/" + below if path and below else path or below
