"""Files between a machine and the host: `docker cp`'s rules for names, and both kinds of machines.

One that runs is asked by READ, WRITE and STAT; of one that does not, its disk is read as it lies, over its image's
layers.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from firekiln.errors import FirekilnError, MachineError, UsageError
from firekiln.machine.guest.protocol import PAYLOAD_LIMIT, Frame, FrameType, parse_control
from firekiln.machine.machine import Machine
from firekiln.machine.supervision.stream import Stream, failure
from firekiln.rootfs.tree import Directory, Node
from firekiln.values import dataclass

Kind = Literal["directory", "other", "absent"]
_SCRATCH = "scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a copy goes: into the directory `into`, as `name`; None: what the source directory holds goes there."""

    into: str
    name: str | None


def target(source: str, source_kind: Kind, dest: str, dest_kind: Kind) -> Target:
    """Docker's rules (`PrepareArchiveCopy`) for paths as they were typed. MachineError with its words."""
    plain = posixpath.normpath(dest)
    if dest_kind == "directory":
        if source_kind == "directory" and _is_content(source):
            return Target(into=dest, name=None)
        return Target(into=dest, name=base(source))
    if dest_kind == "other" and source_kind == "directory":
        raise _cannot("cannot copy directory")
    if dest_kind == "other" and _asserts_directory(dest):
        raise _cannot("not a directory")
    if dest_kind == "absent" and source_kind != "directory" and _asserts_directory(dest):
        raise _cannot("no such directory")
    return Target(into=posixpath.dirname(plain) or ".", name=posixpath.basename(plain))


def base(path: str) -> str:
    """The last name of a path, as that of a copy. The root's is empty."""
    return posixpath.basename(posixpath.normpath(path.rstrip("/") or "/"))


def _is_content(path: str) -> bool:
    return posixpath.basename(path) == "." or base(path) in ("", "..")


def _asserts_directory(path: str) -> bool:
    return path.endswith("/") or posixpath.basename(path) == "."


def _cannot(message: str) -> MachineError:
    error = MachineError(message)
    error.exit_status = FirekilnError.exit_status
    return error


class RunningFiles:
    """The files of a machine that runs."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def kind(self, path: str, *, follow: bool = True) -> Kind:
        with self._machine.stream("stat", path=path, follow=follow) as stream:
            for frame in _frames(stream):
                if frame.type == FrameType.STAT:
                    return "directory" if stat.S_ISDIR(parse_control(frame)["mode"]) else "other"
                if frame.type == FrameType.FAILED:
                    return "absent"
        raise _gone()

    def archive(self, path: str, write: Callable[[bytes], object], *, follow: bool) -> None:
        """The tar of a path, piece by piece. MachineError where it is not there."""
        with self._machine.stream("read", path=path, follow=follow) as stream:
            for frame in _frames(stream):
                if frame.type == FrameType.STDOUT:
                    write(frame.payload)
                elif frame.type in (FrameType.EXITED, FrameType.FAILED):
                    self._check_end(frame, path)
                    return
        raise _gone()

    def put(self, path: str, archive: Iterable[bytes], *, keep_owner: bool) -> None:
        """Unpack a tar in a directory. MachineError where that is not there, or the guest refuses."""
        with self._machine.stream("write", path=path, keep_owner=keep_owner) as stream:
            for data in archive:
                for start in range(0, len(data), PAYLOAD_LIMIT >> 1):
                    piece = data[start : start + (PAYLOAD_LIMIT >> 1)]
                    while stream.stdin_room < len(piece):
                        _await_room(stream)
                    stream.stdin(piece)
            stream.stdin(b"")
            for frame in _frames(stream):
                if frame.type in (FrameType.EXITED, FrameType.FAILED):
                    self._check_end(frame, path)
                    return
        raise _gone()

    def _check_end(self, frame: Frame, path: str) -> None:
        if frame.type == FrameType.FAILED and failure(frame).message.endswith(os.strerror(errno.ENOENT).lower()):
            raise not_found(self._machine, path)
        _check_end(frame)


def not_found(machine: Machine, path: str) -> MachineError:
    """Docker's words for a path of a machine."""
    return _cannot(f"Could not find the file {path} in container {machine.name}")


def stopped_tree(machine: Machine) -> Directory:
    """The files of a machine that does not run: its image's, and what it changed. RootfsError where a drive is gone."""
    from firekiln.rootfs import erofs, ext4  # noqa: PLC0415 - imported when used
    from firekiln.rootfs.merge import merge  # noqa: PLC0415 - ditto

    layers = []
    for drive in machine.settings.spec.drives:
        if drive.serial.startswith("layer"):
            layers.append(erofs.read(drive.path))
        elif drive.serial == _SCRATCH:
            upper = ext4.read(drive.path).children.get(b"upper")
            layers += [upper] if isinstance(upper, Directory) else []
    return merge(layers)


def named(node: Node, place: Target) -> Directory:
    """The Tree that is to be unpacked into `place.into`."""
    if place.name is None:
        assert isinstance(node, Directory)
        return node
    from firekiln.rootfs.tree import Meta  # noqa: PLC0415 - imported when used

    return Directory(meta=Meta(mode=0o755), children={os.fsencode(place.name): node})


def host_kind(path: str) -> Kind:
    """What is at a path of the host, links followed."""
    try:
        return "directory" if Path(path).is_dir() else "other" if Path(path).exists() else "absent"
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or '').lower()}") from error


def _frames(stream: Stream) -> Iterable[Frame]:
    while (frames := stream.receive()) is not None:
        yield from frames


def _await_room(stream: Stream) -> None:
    frames = stream.receive()
    if frames is None:
        raise _gone()
    for frame in frames:
        if frame.type in (FrameType.EXITED, FrameType.FAILED):
            _check_end(frame)
            raise _cannot("the machine took a part of the archive only")


def _check_end(frame: Frame) -> None:
    if frame.type == FrameType.FAILED:
        error = failure(frame)
        error.exit_status = FirekilnError.exit_status
        raise error
    if parse_control(frame)["code"]:
        raise _cannot("the machine could not copy all of it")


def _gone() -> MachineError:
    return _cannot("the machine ended meanwhile")
