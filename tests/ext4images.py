"""What the tests of ext4 share: e2fsck, and a Tree as an ext4 file system can give it back."""

from __future__ import annotations

import shutil
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
