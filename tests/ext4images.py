"""What the tests of ext4 share: e2fsck, and a Tree as an ext4 file system can give it back."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import replace

import pytest

from firekiln.rootfs.compare import differences
from firekiln.rootfs.ext4.inodetable import stored_time
from firekiln.rootfs.tree import Directory, Node, Whiteout

needs_e2fsprogs = pytest.mark.skipif(not shutil.which("e2fsck"), reason="e2fsprogs is not installed")
LOST_FOUND = b"lost+found"


def e2fsck(path):
    """Nothing but its five passes and its summary, and an exit status of 0."""
    if not shutil.which("e2fsck"):
        return
    found = subprocess.run(["e2fsck", "-fn", path], capture_output=True, text=True, check=False)
    lines = [line for line in found.stdout.splitlines() if not line.startswith("Pass ")]
    assert (found.returncode, len(lines)) == (0, 1), found.stdout


def same(tree, back):
    """Asserts that an image's Tree is that of which it was made, but for lost+found and times beyond 2446."""
    children = {name: node for name, node in back.children.items() if name != LOST_FOUND or LOST_FOUND in tree.children}
    found = Directory(meta=back.meta, children=children, opaque=back.opaque)
    assert list(differences(_stored(tree, {}), found)) == []


def _stored(node: Node, known: dict[int, Node]) -> Node:
    if isinstance(node, Whiteout):
        return node
    if id(node) not in known:
        meta = replace(node.meta, mtime_ns=stored_time(node.meta.mtime_ns))
        if isinstance(node, Directory):
            children = {name: _stored(child, known) for name, child in node.children.items()}
            known[id(node)] = Directory(meta=meta, children=children, opaque=node.opaque)
        else:
            known[id(node)] = replace(node, meta=meta)
    return known[id(node)]


_JOURNAL = b"\xc0\x3b\x39\x98"
_ESCAPED, _SAME_UUID, _LAST_TAG = 1, 2, 8


def crashed(image: bytes, contents: dict[int, bytes]) -> bytes:
    """An image with a journal, whose blocks have these contents once the journal is replayed: one transaction, the
    superblock saying that it is to be replayed.
    """
    data = bytearray(image)
    journal = image.index(_JOURNAL + struct.pack(">I", 4))
    tags, blocks = b"", b""
    for position, (number, content) in enumerate(contents.items()):
        flags = _SAME_UUID | (_LAST_TAG if position == len(contents) - 1 else 0)
        if content.startswith(_JOURNAL):
            flags, content = flags | _ESCAPED, bytes(4) + content[4:]  # noqa: PLW2901 - as the journal has it
        tags += struct.pack(">IHH", number, 0, flags)
        blocks += content
    sequence = struct.pack(">I", 7)
    descriptor = (_JOURNAL + struct.pack(">I", 1) + sequence + tags).ljust(4096, b"\0")
    commit = (_JOURNAL + struct.pack(">I", 2) + sequence).ljust(4096, b"\0")
    log = descriptor + blocks + commit
    data[journal + 4096 : journal + 4096 + len(log)] = log
    data[journal + 24 : journal + 32] = sequence + struct.pack(">I", 1)  # s_sequence, s_start
    data[1024 + 96] |= 4  # INCOMPAT_RECOVER
    return bytes(data)
