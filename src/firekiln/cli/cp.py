"""`firekiln cp`: files into machines, and out of them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from firekiln.cli.machines import client_failures, machine_state
from firekiln.cli.table import human_size
from firekiln.errors import ConflictError, FirekilnError, UsageError
from firekiln.machine import copying
from firekiln.machine.machine import Machine
from firekiln.machine.supervision.state import RUNS

if TYPE_CHECKING:
    from firekiln.rootfs.tree import Node

_CHUNK = 1 << 20


@click.command
@click.option("-a", "--archive", "keep_owner", is_flag=True, help="Keep owners and groups.")
@click.option("-L", "--follow-link", "follow", is_flag=True, help="Copy what a symbolic link SOURCE points to.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of what was copied.")
@click.argument("source")
@click.argument("dest")
@click.pass_context
def cp(  # noqa: PLR0917 - click passes them by keyword
    ctx: click.Context, keep_owner: bool, follow: bool, quiet: bool, source: str, dest: str
) -> None:
    """Copy files between a machine and the host.

    One of SOURCE and DEST is MACHINE:PATH, the other a path of the host, or - for a tar archive. SOURCE/. means what
    the directory holds.
    """
    from_machine, source_path = split(source)
    to_machine, dest_path = split(dest)
    if from_machine and to_machine:
        raise _failed("copying between containers is not supported")
    if not from_machine and not to_machine:
        raise FirekilnError("must specify at least one container source", hint="MACHINE:PATH names a file of a machine")
    state = machine_state(ctx)
    machine = Machine.find(state, from_machine or to_machine)
    with client_failures():
        if to_machine:
            _copy_in(machine, source_path, dest_path, keep_owner=keep_owner, follow=follow, quiet=quiet)
        elif dest_path == "-":
            _archive_out(machine, source_path, follow=follow)
        else:
            _copy_out(machine, source_path, dest_path, keep_owner=keep_owner, follow=follow, quiet=quiet)


def split(word: str) -> tuple[str, str]:
    """`MACHINE:PATH`, or "" and a path of the host, as Docker tells them apart."""
    name, colon, path = word.partition(":")
    if not colon or word.startswith(("/", ".")) or not name:
        return "", word
    return name, path if path.startswith("/") else f"/{path}"


def _copy_out(machine: Machine, source: str, dest: str, *, keep_owner: bool, follow: bool, quiet: bool) -> None:
    from firekiln.machine.unpack import unpack  # noqa: PLC0415 - imported when used
    from firekiln.rootfs.tree import Directory  # noqa: PLC0415 - ditto

    with tempfile.TemporaryFile() as spool:
        node = _node(machine, source, spool.fileno(), follow=follow)
        kind: copying.Kind = "directory" if isinstance(node, Directory) else "other"
        if kind == "other" and source.endswith(("/", "/.")):
            raise _failed(f"{source}: not a directory")
        place = copying.target(source, kind, dest, copying.host_kind(dest))
        into = Path(place.into)
        if not into.is_dir():
            raise _failed(f"{place.into}: no such directory")
        try:
            unpack(copying.named(node, place), into, keep_owner=keep_owner)
        except OSError as error:
            raise _failed(f"{dest}: {(error.strerror or str(error)).lower()}") from error
    if not quiet:
        _say(node, dest)


def _archive_out(machine: Machine, source: str, *, follow: bool) -> None:
    from firekiln.rootfs.tar import writer  # noqa: PLC0415 - imported when used

    if sys.stdout.isatty():
        raise UsageError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if machine.record.status in RUNS:
        copying.RunningFiles(machine).archive(source, _write, follow=follow)
        return
    node = _stopped(machine, source, follow=follow)
    place = copying.Target(into=".", name=copying.base(source) or ".")
    for piece in writer.pieces(copying.named(node, place), root=False):
        _write(piece)


def _copy_in(machine: Machine, source: str, dest: str, *, keep_owner: bool, follow: bool, quiet: bool) -> None:
    from firekiln.rootfs import directory  # noqa: PLC0415 - imported when used
    from firekiln.rootfs.tar import writer  # noqa: PLC0415 - ditto

    if machine.record.status not in RUNS:
        raise ConflictError(
            f"{machine.name} does not run: nothing can be copied into it",
            hint=f"firekiln start {machine.name}; its disk is a file system that only a running machine writes to",
        )
    files = copying.RunningFiles(machine)
    dest_kind = files.kind(dest)
    if source == "-":
        if dest_kind != "directory":
            raise _failed(f'destination "{machine.name}:{dest}" must be a directory')
        files.put(dest, _stdin(), keep_owner=keep_owner)
        return
    real = os.path.realpath(source) if follow else source
    if not os.path.lexists(real):
        raise _failed(f"lstat {source}: no such file or directory")
    kind: copying.Kind = "directory" if Path(real).is_dir() and (follow or _is_no_link(real)) else "other"
    if kind == "other" and source.endswith(("/", "/.")):
        raise _failed(f"{source}: not a directory")
    place = copying.target(source if source.strip("./") else os.path.realpath(source) + source, kind, dest, dest_kind)
    parent, name = (real, None) if kind == "directory" else (str(Path(real).parent), Path(real).name)
    with directory.opened(parent) as tree:
        node: Node = tree if name is None else tree.children[os.fsencode(name)]
        files.put(place.into, writer.pieces(copying.named(node, place), root=False), keep_owner=keep_owner)
        if not quiet:
            _say(node, f"{machine.name}:{dest}")


def _is_no_link(path: str) -> bool:
    """A link is copied as one, unless a slash behind it says that its directory is meant."""
    return path.endswith(("/", "/.")) or not Path(path).is_symlink()


def _node(machine: Machine, path: str, spool: int, *, follow: bool) -> Node:
    """What a machine has at a path; the content is in `spool`, or in the machine's drives."""
    from firekiln.rootfs.tar import reader  # noqa: PLC0415 - imported when used

    if machine.record.status not in RUNS:
        return _stopped(machine, path, follow=follow)

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(spool, view) :]

    copying.RunningFiles(machine).archive(path, write, follow=follow)
    tree = reader.read(f"/proc/self/fd/{spool}", name=f"{machine.name}:{path}")
    if len(tree.children) == 1 and copying.base(path):
        return next(iter(tree.children.values()))
    return tree


def _stopped(machine: Machine, path: str, *, follow: bool) -> Node:
    from firekiln.rootfs.lookup import resolve  # noqa: PLC0415 - imported when used

    tree = copying.stopped_tree(machine)
    found = resolve(tree, os.fsencode(path), follow_last=follow or path.endswith(("/", "/.")))
    if found.node is None:
        raise copying.not_found(machine, path)
    return found.node


def _stdin() -> Iterator[bytes]:
    while data := os.read(0, _CHUNK):
        yield data


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _say(node: Node, dest: str) -> None:
    """As Docker, which says it where somebody sees it."""
    from firekiln.rootfs.tree import Directory, File, walk  # noqa: PLC0415 - imported when used

    if not sys.stderr.isatty():
        return
    nodes = [each for _, each in walk(node)] if isinstance(node, Directory) else [node]
    size = sum(each.size for each in nodes if isinstance(each, File))
    click.echo(f"Successfully copied {human_size(size)} to {dest}", err=True)


def _failed(message: str) -> FirekilnError:
    return FirekilnError(message)
