"""Trees for tests: short makers, and Hypothesis strategies for any Tree that a writer must carry."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from firekiln.rootfs.tree import (
    BytesSource,
    Device,
    Directory,
    Extent,
    Fifo,
    File,
    Meta,
    Node,
    Socket,
    Symlink,
    Whiteout,
)

META = Meta(mode=0o644)
NOBODY = 0xFFFFFFFF


def folder(children: dict[bytes, Node] | None = None, *, opaque: bool = False, mode: int = 0o755) -> Directory:
    return Directory(meta=Meta(mode=mode), children=children or {}, opaque=opaque)


def file(data: bytes = b"", *, mode: int = 0o644, **meta) -> File:
    return File.of(data, Meta(mode=mode, **meta))


def link(target: bytes) -> Symlink:
    return Symlink(meta=Meta(mode=0o777), target=target)


def sparse(size: int, pieces: dict[int, bytes], meta: Meta = META) -> File:
    extents = tuple(Extent(start, len(data), BytesSource(data), 0) for start, data in sorted(pieces.items()))
    return File(meta=meta, size=size, extents=extents)


names = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"!", b"-x", b"..x", b".a", b"\xff\xfe", "é".encode(), b"n" * 255]),
    st.binary(min_size=1, max_size=20).map(lambda b: b.replace(b"/", b"_").replace(b"\0", b"_")),
).filter(lambda name: name not in {b".", b".."} and not name.startswith(b".wh."))

# The kernel looks into these two. vfs_cap_data, revision 2, with CAP_NET_BIND_SERVICE permitted and effective:
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
# posix_acl_xattr_header, entries (tag, permissions, id): rw- for the owner, r-- for user 7, rw- mask, r-- others:
ACL = struct.pack("<I" + "HHI" * 5, 2, 1, 6, NOBODY, 2, 4, 7, 4, 4, NOBODY, 16, 6, NOBODY, 32, 4, NOBODY)
values = st.binary(max_size=300)
privileged = {
    b"security.capability": st.just(CAPABILITY),
    b"system.posix_acl_access": st.just(ACL),
    b"trusted.t": values,
    b"security.selinux": values,
}


def xattrs(kinds):
    return st.fixed_dictionaries({}, optional=kinds).map(lambda found: tuple(sorted(found.items())))


any_xattrs = xattrs({**privileged, b"user.a": values, b"user.b" * 20: values})
special_xattrs = xattrs(privileged)  # the kernel knows user.* of files and directories only
ids = st.one_of(st.sampled_from([0, 1, 1000, 65534, 65536, 2**31]), st.integers(0, 2**32 - 2))
times = st.one_of(st.just(0), st.integers(0, 2**34 * 10**9), st.integers(-(10**18), -1))


modes = st.integers(0, 0o7777)


def metas(attributes=any_xattrs):
    return st.builds(
        lambda mode, uid, gid, mtime, attrs: Meta(mode=mode, uid=uid, gid=gid, mtime_ns=mtime, xattrs=attrs),
        modes,
        ids,
        ids,
        times,
        attributes,
    )


link_metas = st.builds(lambda uid, gid, mtime: Meta(mode=0o777, uid=uid, gid=gid, mtime_ns=mtime), ids, ids, times)
contents = st.one_of(
    st.binary(max_size=50),
    st.tuples(st.sampled_from([1, 4095, 4096, 4097, 8192, 20000]), st.binary(min_size=1, max_size=3)).map(
        lambda pair: (pair[1] * pair[0])[: pair[0]]
    ),
)


@st.composite
def sparse_files(draw) -> File:
    position, pieces = 0, {}
    for _ in range(draw(st.integers(0, 3))):
        position += draw(st.sampled_from([0, 1, 4096, 8192, 100_000, 5_000_000]))
        data = draw(st.binary(min_size=1, max_size=30)) * draw(st.sampled_from([1, 500]))
        pieces[position] = data
        position += len(data)
    return sparse(position + draw(st.sampled_from([0, 1, 4096, 1 << 22])), pieces, draw(metas()))


devices = st.builds(
    lambda meta, block, major, minor: Device(meta=meta, block=block, major=major, minor=minor),
    metas(special_xattrs),
    st.booleans(),
    st.integers(1, 4095),
    st.integers(0, 2**20 - 1),
)


def leaves(*, whiteouts: bool, sockets: bool):
    kinds = [
        st.builds(File.of, contents, metas()),
        sparse_files(),
        st.builds(
            lambda meta, target: Symlink(meta=meta, target=target),
            link_metas,
            st.one_of(st.just(b"t" * 4095), st.binary(min_size=1, max_size=60).filter(lambda t: b"\0" not in t)),
        ),
        devices,
        st.builds(lambda meta: Fifo(meta=meta), metas(special_xattrs)),
    ]
    if sockets:
        kinds.append(st.builds(lambda meta: Socket(meta=meta), metas(special_xattrs)))
    if whiteouts:
        kinds.append(st.builds(Whiteout))
    return st.one_of(kinds)


@st.composite
def trees(draw, *, whiteouts: bool = True, sockets: bool = True, hard_links: bool = True) -> Directory:
    """A Tree of a few dozen nodes; with `whiteouts` also opaque directories (never the root's own)."""
    opaque = st.booleans() if whiteouts else st.just(False)
    branches = st.recursive(
        leaves(whiteouts=whiteouts, sockets=sockets),
        lambda nodes: st.builds(
            lambda meta, children, hides: Directory(meta=meta, children=children, opaque=hides),
            metas(),
            st.dictionaries(names, nodes, max_size=5),
            opaque,
        ),
        max_leaves=12,
    )
    root = Directory(meta=draw(metas()), children=draw(st.dictionaries(names, branches, max_size=6)))
    if hard_links:
        _link_some(draw, root)
    return root


def _link_some(draw, root: Directory) -> None:
    directories, others = [root], []
    for directory in directories:
        for node in directory.children.values():
            (directories if isinstance(node, Directory) else others).append(node)
    others = [node for node in others if not isinstance(node, Whiteout)]
    if not others:
        return
    for _ in range(draw(st.integers(0, 3))):
        directory = draw(st.sampled_from(directories))
        directory.children.setdefault(draw(names), draw(st.sampled_from(others)))


def static_elf(code: bytes, *, machine: int = 62) -> bytes:
    """A program of nothing but `code`, by default x86-64's: ELF header, one segment."""
    base, headers = 0x400000, 64 + 56
    size = headers + len(code)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x10000)
    return ident + header + segment + code
