"""What a step's files are, seen from outside its user namespace: its ids, capabilities and ACLs as it sees them itself.

We read the upper side of a step with our own rights, as the user. What those do not reach (files of other ids that not
all may read) the keeper makes ours first, and says what it was (`Revealed`).
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from firekiln.errors import SandboxError
from firekiln.rootfs.directory import Restore
from firekiln.rootfs.tree import Meta
from firekiln.sandbox.idmap import IdMap

CAPABILITY: Final = b"security.capability"
_ACLS: Final = frozenset({b"system.posix_acl_access", b"system.posix_acl_default"})
_USER: Final = 0x02
_GROUP: Final = 0x08
"""Tags of ACL entries that hold an id: linux/posix_acl.h."""


class Revealed(NamedTuple):
    """What an inode was before it was made readable for us, as the namespace sees it."""

    mode: int
    uid: int
    gid: int
    capability: bytes


def restoring(ids: IdMap, revealed: Mapping[tuple[int, int], Revealed]) -> Restore:
    """What turns attributes as we see them into those that the namespace sees. `revealed` is by device and inode."""
    root = ids.uids[0].outside

    def restore(status: os.stat_result, meta: Meta) -> Meta:
        try:
            xattrs = _restored_xattrs(meta, ids, root) if meta.xattrs else {}
            before = revealed.get((status.st_dev, status.st_ino))
            if before is None:
                before = Revealed(meta.mode, ids.uid_inside(meta.uid), ids.gid_inside(meta.gid), b"")
        except LookupError as error:
            raise SandboxError(str(error.args[0])) from None
        if before.capability:
            xattrs[CAPABILITY] = before.capability
        ordered = tuple(sorted(xattrs.items()))
        return replace(meta, mode=stat.S_IMODE(before.mode), uid=before.uid, gid=before.gid, xattrs=ordered)

    return restore


def capability_of_root(value: bytes, root: int) -> bytes:
    """`struct vfs_ns_cap_data` of a namespace whose root is `root`, as `struct vfs_cap_data` (linux/capability.h)."""
    if len(value) != 24 or value[3] != 3 or struct.unpack_from("<I", value, 20)[0] != root:
        return value
    return value[:3] + b"\x02" + value[4:20]


def acl_inside(value: bytes, ids: IdMap) -> bytes:
    """An ACL in xattr form (linux/posix_acl_xattr.h: a header of 4 bytes; entries of tag, permissions, id)."""
    made = bytearray(value)
    for place in range(4, len(made) - 7, 8):
        tag, permissions, number = struct.unpack_from("<HHI", made, place)
        if tag in {_USER, _GROUP}:
            inside = ids.uid_inside(number) if tag == _USER else ids.gid_inside(number)
            struct.pack_into("<HHI", made, place, tag, permissions, inside)
    return bytes(made)


def _restored_xattrs(meta: Meta, ids: IdMap, root: int) -> dict[bytes, bytes]:
    xattrs = dict(meta.xattrs)
    for name in _ACLS & xattrs.keys():
        xattrs[name] = acl_inside(xattrs[name], ids)
    if CAPABILITY in xattrs:
        xattrs[CAPABILITY] = capability_of_root(xattrs[CAPABILITY], root)
    return xattrs
