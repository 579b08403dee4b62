"""Whose the new files are: `--chown` and USER, looked up in the file system that is changed, as BuildKit does it."""

from __future__ import annotations

from firekiln.build.graph import Owner
from firekiln.errors import BuildError
from firekiln.rootfs import lookup
from firekiln.rootfs.tree import File, Tree
from firekiln.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    uid: int
    gid: int


def ids(owner: Owner, root: Tree | None) -> Ids:
    """The numbers of `owner` in `root`'s /etc/passwd and /etc/group.

    A user's name brings its own group, a user's number the group of the same number. An unknown name is not an error:
    an unknown user is 0:0, an unknown group is as if it had not been given. With `root` None there is nothing to look
    into, and a name is a BuildError, as it is for BuildKit.
    """
    uid = gid = 0
    if isinstance(owner.user, int):
        uid = gid = owner.user
    elif entry := _entry(root, b"etc/passwd", owner.user):
        uid, gid = _number(entry, 2), _number(entry, 3)
    if isinstance(owner.group, int):
        gid = owner.group
    elif owner.group is not None and (entry := _entry(root, b"etc/group", owner.group)):
        gid = _number(entry, 2)
    return Ids(uid=uid, gid=gid)


def _entry(root: Tree | None, path: bytes, name: str) -> list[bytes] | None:
    """The fields of the line that begins with `name`, if the file and the line are there."""
    if root is None:
        raise BuildError(
            f'invalid user index: "{name}" can\'t be looked up, there is no file system below',
            hint="with --link, or directly on scratch, give --chown numbers",
        )
    node = lookup.resolve(root, path).node
    if not isinstance(node, File):
        return None
    wanted = name.encode(errors="surrogateescape")
    lines = (line.strip().split(b":") for line in node.read().splitlines())
    return next((fields for fields in lines if fields[0] == wanted), None)


def _number(fields: list[bytes], index: int) -> int:
    """A field as a number; 0 where it is none, as libcontainer reads these files."""
    text = fields[index] if index < len(fields) else b""
    number = int(text) if text.isdigit() and len(text) <= 10 else 0
    return number if number < (1 << 32) - 1 else 0
