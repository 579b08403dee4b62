"""Trees written as mappings, and shown as the golden files show them."""

from __future__ import annotations

from firekiln.rootfs.merge import merge
from firekiln.rootfs.tree import Device, Directory, Fifo, File, Inode, Meta, Symlink, Tree, Whiteout, walk

NOW = 2_000_000_000_000_000_000
THEN = 1_234_567_890_000_000_000


def meta(mode=0o644, uid=0, gid=0, mtime_ns=THEN, xattrs=()):
    return Meta(mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns, xattrs=xattrs)


def file(data=b"x", mode=0o644, uid=0, gid=0, **more):
    return File.of(data, meta(mode, uid, gid, **more))


def link(target):
    return Symlink(meta=meta(0o777), target=target.encode())


def folder(mode=0o755, uid=0, gid=0, /, **children):
    return Directory(meta=meta(mode, uid, gid), children={name.encode(): node for name, node in children.items()})


def put(tree: Tree, path: str, node: Inode) -> None:
    *above, name = path.encode().split(b"/")
    for part in above:
        tree = tree.children.setdefault(part, folder())
    tree.children[name] = node


def tree(**nodes):
    """`{"a/b": file()}` as a Tree; missing directories are 0755."""
    root = folder()
    for path, node in nodes.items():
        put(root, path, node)
    return root


def passwd_and_group():
    return {
        "etc/passwd": file(b"root:x:0:0::/root:/bin/sh\nbob:x:7:8::/home/bob:/bin/sh\n"),
        "etc/group": file(b"root:x:0:\nbob:x:8:\ngrp:x:9:bob\n"),
    }


def base():
    """A base like the golden files': the part that their instructions touch."""
    nodes = {
        "t/exist": folder(0o1777),
        "t/real": folder(),
        "t/file": file(b"old\n"),
        "t/lnd": link("real"),
        "t/lnf": link("file"),
        "bin/f1": file(b"one"),
    }
    return tree(**passwd_and_group(), **nodes)


def context():
    """A context like the golden files', owners set to root as the local source does."""
    a = file(b"a")
    d = folder(0o2750, a=a, hard=a, lna=link("a"), fifo=Fifo(meta=meta()), sub=folder(0o700, b=file(b"bb", 0o600)))
    nodes = {
        ".dockerignore": file(b"# nothing of interest"),
        "f1": file(b"one"),
        "f2": file(b"two", 0o4755),
        "d": d,
        "d2/a": file(b"2222"),
        "d2/c": file(b"c"),
        "sp ace": file(b"s"),
        "arr[0].txt": file(b"0"),
        "lnf": link("f1"),
        "lnd": link("d"),
        "lnabs": link("/etc/passwd"),
        "dang": link("nope"),
        "empty": folder(),
    }
    return tree(**nodes)


def kind(node):
    match node:
        case Directory():
            return "d"
        case File():
            return "f"
        case Symlink():
            return "l"
        case Fifo() | Device():
            return "?"
        case _:
            return type(node).__name__


def describe(tree: Tree, *, mtimes: bool = False) -> dict[str, str]:
    """Every node as `kind mode uid:gid size`, hard links as `h … ->first name`."""
    shown, first = {}, {}
    for path, node in walk(tree):
        name = path.decode()
        if isinstance(node, Whiteout):
            shown[name] = "whiteout"
            continue
        m = node.meta
        text = f"{kind(node)} {m.mode:04o} {m.uid}:{m.gid}"
        again = first.setdefault(id(node), name) != name
        if again:
            text = f"h{text[1:]} ->{first[id(node)]}"
        elif isinstance(node, File):
            text += f" {node.size}"
        elif isinstance(node, Symlink):
            text += f" ->{node.target.decode()}"
        shown[name] = text + (f" mt{m.mtime_ns // 10**9}" if mtimes else "")
    return shown


def changes(below: Tree, diff: Tree, *, mtimes: bool = False) -> dict[str, str]:
    """What the golden files show: the nodes of the result that differ from those of the base, times aside."""
    before = describe(below, mtimes=mtimes)
    after = describe(merge([below, diff]), mtimes=mtimes)
    return {path: text for path, text in after.items() if before.get(path) != text}


def of_d(name, owner="0:0", **other):
    """What the context's `d` becomes as a directory `name` that was not there."""
    hard = f"h 0644 {owner} ->{name}/a"
    nodes = {
        "": f"d 0755 {owner}",
        "/a": f"f 0644 {owner} 1",
        "/fifo": f"? 0644 {owner}",
        "/hard": hard,
        "/lna": f"l 0777 {owner} ->a",
        "/sub": f"d 0700 {owner}",
        "/sub/b": f"f 0600 {owner} 2",
    }
    return {name + path: text for path, text in (nodes | other).items() if text}
