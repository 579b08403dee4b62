"""Stores, kernels and images for tests of exports."""

from firekiln.machine.export import Request, export, parse_output
from firekiln.machine.kernel.catalog import NewKernel, NewModule, add
from trees import CAPABILITY, file, folder, link, sparse

MODULES = ("virtio_mmio", "virtio_blk", "overlay", "erofs")


def add_kernel(store, *names, kind="debian"):
    """A kernel that no machine could boot, with these modules."""
    modules = tuple(NewModule(name=name, data=name.encode(), depends=()) for name in names)
    kernel = NewKernel(
        kind=kind,
        version="6.1",
        architecture="amd64",
        image=b"\x7fELF",
        modules=modules,
        features=frozenset({"dm-verity"}),
    )
    return add(store.root, kernel)


def lower():
    return folder(
        {
            b"bin": folder({b"app": file(b"#!" * 3000, mode=0o4755, xattrs=((b"security.capability", CAPABILITY),))}),
            b"etc": folder({b"passwd": file(b"root:x:0:0::/:/bin/app\n"), b"gone": file(b"x")}),
            b"usr": folder({b"sbin": folder()}),
            b"sbin": link(b"usr/sbin"),
        }
    )


def upper():
    twice = file(b"the same", uid=7, gid=8, mtime_ns=1_700_000_000_123_456_789)
    return folder(
        {
            b"data": folder({b"a": twice, b"b": twice, b"hole": sparse(1 << 20, {1 << 19: b"in the middle"})}),
            b"long": folder({b"n" * 200: file(b"y" * 5000)}),
        }
    )


def write(store, image, text, **options):
    """One export, by Docker's words."""
    return export(store, Request(image=image, output=parse_output(text), **options))
