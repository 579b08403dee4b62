"""What somebody who is not root can have of a Tree."""

from firekiln.machine.export.owner import belonging_to
from firekiln.rootfs.tree import Device, Meta, walk
from trees import CAPABILITY, file, folder


def test_everything_is_the_users_without_privileges_and_devices():
    program = file(b"x", mode=0o4755, uid=0, xattrs=((b"security.capability", CAPABILITY),))
    tree = folder(
        {b"d": folder({b"a": program}), b"b": program, b"n": Device(meta=Meta(mode=0), block=False, major=1, minor=3)}
    )
    made = belonging_to(tree, uid=1000, gid=100)
    nodes = dict(walk(made))
    assert sorted(nodes) == [b"b", b"d", b"d/a"]
    assert nodes[b"b"] is nodes[b"d/a"]
    assert nodes[b"b"].meta == Meta(mode=0o755, uid=1000, gid=100)
    assert {node.meta.uid for node in nodes.values()} == {1000}
    assert program.meta.mode == 0o4755
