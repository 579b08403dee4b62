"""A Tree that boots by itself: the image's own files, our PID 1 and the machine document.

    /.firekiln/init           PID 1, mode 0755 in a folder of mode 0700
    /.firekiln/machine.json   the machine document (`root` says that it is flat), mode 0600
    /.firekiln/overlay        an empty folder: where PID 1 puts a tmpfs when the root file system is read-only
    /.firekiln/modules.list, /.firekiln/modules/   in a cpio only, where the kernel needs modules
    /sbin/init                a link to PID 1, unless the image has an init of its own (/init in a cpio)
    /dev, /proc, /sys         made where the image lacks them: a read-only root has no other chance

guest/PROTOCOL.md says what PID 1 does with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from firekiln.errors import RootfsError
from firekiln.machine.guest.initramfs import KernelModule, modules_list
from firekiln.rootfs.lookup import resolve
from firekiln.rootfs.tree import Device, Directory, File, Meta, Node, Symlink, Tree
from firekiln.values import dataclass

INIT: Final = "/.firekiln/init"
_FOLDER: Final = b".firekiln"
_MOUNT_POINTS: Final = (b"dev", b"proc", b"sys")
_LINK: Final = Symlink(meta=Meta(mode=0o777), target=INIT.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """A composed Tree. `linked`: the kernel finds our PID 1 by its usual name; else its command line must say INIT."""

    tree: Tree
    linked: bool


def compose(
    tree: Tree, *, pid1: bytes, document: bytes, initramfs: bool = False, modules: Sequence[KernelModule] = ()
) -> Flat:
    """The Tree that boots. `initramfs`: as one (a cpio), which has a console and /init, and may have modules.

    What an earlier export left in /.firekiln is replaced. RootfsError where the image is not made for it.
    """
    children = dict(tree.children)
    for name in _MOUNT_POINTS:
        if not isinstance(children.setdefault(name, _folder()), Directory):
            raise RootfsError(f"/{name.decode()} of the image is no directory: such an image can't boot")
    children[_FOLDER] = _ours(pid1, document, modules)
    made = Directory(meta=tree.meta, children=children)
    if initramfs:
        made = _with(made, [b"dev", b"console"], Device(meta=Meta(mode=0o600), block=False, major=5, minor=1))
    link = _link(made, b"init" if initramfs else b"sbin/init")
    return Flat(tree=link or made, linked=link is not None)


def _link(tree: Tree, path: bytes) -> Tree | None:
    """The Tree with our PID 1 at `path` (below the folder that a link like /sbin leads to); None where one is taken."""
    found = resolve(tree, path, follow_last=False)
    if found.node is not None and not _is_ours(found.node):
        return None
    parts = found.path.split(b"/")
    above: Node | None = tree
    for part in parts[:-1]:
        above = above.children.get(part, _folder()) if isinstance(above, Directory) else None
    return _with(tree, parts, _LINK) if isinstance(above, Directory) else None


def _is_ours(node: Node) -> bool:
    return isinstance(node, Symlink) and node.target == _LINK.target


def _with(tree: Directory, parts: Sequence[bytes], node: Node) -> Directory:
    """The Tree with `node` at that path, directories on the way made where they are missing; the rest is shared."""
    name, *rest = parts
    if rest:
        below = tree.children.get(name)
        node = _with(below if isinstance(below, Directory) else _folder(), rest, node)
    return Directory(meta=tree.meta, children={**tree.children, name: node})


def _ours(pid1: bytes, document: bytes, modules: Sequence[KernelModule]) -> Directory:
    children: dict[bytes, Node] = {
        b"init": File.of(pid1, Meta(mode=0o755)),
        b"machine.json": File.of(document, Meta(mode=0o600)),
        b"overlay": _folder(),
    }
    if modules:
        files: dict[bytes, Node] = {item.name.encode(): File.of(item.data, Meta(mode=0o600)) for item in modules}
        children[b"modules"] = Directory(meta=Meta(mode=0o700), children=files)
        children[b"modules.list"] = File.of(modules_list(modules), Meta(mode=0o600))
    return Directory(meta=Meta(mode=0o700), children=children)


def _folder() -> Directory:
    return Directory(meta=Meta(mode=0o755))
