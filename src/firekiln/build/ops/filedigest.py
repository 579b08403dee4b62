"""Digests of files' contents; those of a build context are remembered by what stat(2) says.

A file whose path, device, inode, size and times are those of an earlier build is not read again. As in git, an entry is
only trusted if the file was left alone for a while before its times were looked at: what is written within the same
tick of the clock leaves them as they are. ctime is among them, which no program can set.

The memory is a file of the store for each context's folder. It may be lost or damaged: that costs work.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias, cast

from firekiln.build.ops.hashing import hash_in_processes
from firekiln.rootfs.content import Sources, read_exactly
from firekiln.rootfs.directory import HostFile
from firekiln.rootfs.tree import CHUNK, BytesSource, File

_VERSION: Final = 1
_TICK_NS: Final = 50_000_000
"""No kernel's clock for files is coarser, save on file systems that keep whole seconds."""
_COARSE_NS: Final = 2_000_000_000
"""FAT's times are even seconds."""
_SPARE: Final = 10_000
"""Entries of files that this build did not look at; beyond that they are dropped."""

_Entry: TypeAlias = list[int | str]
"""Device, inode, size, mtime and ctime in nanoseconds; the content's sha256 in hexadecimal digits."""


class FileDigests:
    """The digests of one build. Used by several threads, whose writes do not disturb one another."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds the memory; it is made when there is something to keep."""
        self._folder = folder
        self._began_ns = time.time_ns()
        self._roots: dict[str, _Root] = {}

    def read_ahead(self, files: Iterable[File]) -> None:
        """Hash those of `files` that are not known in several processes, where that is faster."""
        unknown: dict[str, dict[str, HostFile]] = {}
        for file in files:
            source = file.extents[0].source if file.extents else None
            if isinstance(source, HostFile) and self._root(source).recall(source) is None:
                unknown.setdefault(source.root, {})[_text(source.path)] = source
        for root, sources in unknown.items():
            self._roots[root].fresh.update(hash_in_processes(sources))

    def content(self, file: File, opened: Sources) -> bytes:
        """As `content_digest`; a file of the host is read only if it is not known."""
        source = file.extents[0].source if file.extents else None
        if not isinstance(source, HostFile):
            return content_digest(file, opened)
        root = self._root(source)
        digest = root.recall(source)
        if digest is None:
            digest = root.fresh.get(_text(source.path)) or content_digest(file, opened)
            if self._is_settled(source):
                root.remember(source, digest)
        source.note(digest)
        return digest

    def _root(self, source: HostFile) -> _Root:
        root = self._roots.get(source.root)
        if root is None:
            root = self._roots[source.root] = _Root(self._folder, source.root)
        return root

    def save(self) -> None:
        """Remember what was read. That it could not be kept is no error: the next build reads again."""
        for root in self._roots.values():
            with suppress(OSError):
                if root.changed:
                    root.save()
                else:
                    root.touch()

    def _is_settled(self, source: HostFile) -> bool:
        times = (source.mtime_ns, source.ctime_ns)
        whole = all(moment % 1_000_000_000 == 0 for moment in times)
        return max(times) + (_COARSE_NS if whole else _TICK_NS) < self._began_ns


class _Root:
    """What is known of one folder's files, by their paths in it; `seen` are those that this build looked at.

    `fresh` are digests that were just read.
    """

    def __init__(self, folder: Path, root: str) -> None:
        name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()
        self._path = folder / f"{name[:32]}.json"
        self.seen: dict[str, _Entry] = {}
        self.fresh: dict[str, bytes] = {}
        self.changed = False
        self.entries = self._load()

    def recall(self, source: HostFile) -> bytes | None:
        """The digest of a file that is as it was."""
        path = _text(source.path)
        entry = self.seen.get(path) or self.entries.get(path)
        if not isinstance(entry, list) or entry[:5] != _stamp(source):
            return None
        digest = _digest(entry[5:])
        if digest is not None:
            self.seen[path] = entry
        return digest

    def remember(self, source: HostFile, digest: bytes) -> None:
        self.seen[_text(source.path)] = [*_stamp(source), digest.hex()]
        self.changed = True

    def _load(self) -> dict[str, _Entry]:
        try:
            document = json.loads(self._path.read_bytes())
            return dict(document["files"]) if document["version"] == _VERSION else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}

    def touch(self) -> None:
        """Have the file's time say when it was last of use: by that it is pruned."""
        os.utime(self._path)

    def save(self) -> None:
        kept = {path: entry for path, entry in self.entries.items() if path not in self.seen}
        if len(kept) > len(self.seen) + _SPARE:
            kept = {}
        document = {"version": _VERSION, "files": {**kept, **self.seen}}
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        scratch = self._path.with_name(f"{self._path.name}.{secrets.token_hex(6)}")
        try:
            scratch.write_text(json.dumps(document, separators=(",", ":")))
            scratch.replace(self._path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise


def _text(path: bytes) -> str:
    return path.decode(errors="surrogateescape")


def _stamp(source: HostFile) -> _Entry:
    return [source.device, source.inode, source.size, source.mtime_ns, source.ctime_ns]


def _digest(rest: _Entry) -> bytes | None:
    """What stands behind the stamp, if it is what was written there."""
    try:
        [text] = rest
        digest = bytes.fromhex(cast("str", text))
    except (TypeError, ValueError):
        return None
    return digest if len(digest) == hashlib.sha256().digest_size else None


def content_digest(file: File, opened: Sources) -> bytes:
    """The sha256 of a file's content, holes as zeros. A source that many files share is opened once."""
    content = hashlib.sha256()
    position = 0
    for start, length, source, offset in file.extents:
        _zeros(content, start - position)
        position = start + length
        if isinstance(source, BytesSource):
            content.update(source.data[offset : offset + length])
            continue
        fd = opened.fd(source)
        for done in range(0, length, CHUNK):
            content.update(read_exactly(fd, min(CHUNK, length - done), offset + done))
    _zeros(content, file.size - position)
    return content.digest()


def _zeros(content: hashlib._Hash, length: int) -> None:
    for done in range(0, length, CHUNK):
        content.update(bytes(min(CHUNK, length - done)))
