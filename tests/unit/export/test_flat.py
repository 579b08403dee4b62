"""Trees that boot by themselves."""

import pytest

from firekiln.errors import RootfsError
from firekiln.machine.export.flat import compose
from firekiln.machine.guest.initramfs import KernelModule
from firekiln.rootfs.compare import differences
from firekiln.rootfs.lookup import get, resolve
from firekiln.rootfs.tree import Device, Directory, Symlink
from trees import file, folder, link


def made(tree, **options):
    return compose(tree, pid1=b"\x7fELF", document=b"{}", **options)


def test_an_empty_image_gets_what_pid_1_needs():
    flat = made(folder())
    assert flat.linked
    assert sorted(flat.tree.children) == [b".firekiln", b"dev", b"proc", b"sbin", b"sys"]
    ours = get(flat.tree, b".firekiln")
    assert ours.meta.mode == 0o700
    assert ours.children[b"init"].read() == b"\x7fELF"
    assert ours.children[b"machine.json"].meta.mode == 0o600
    assert isinstance(ours.children[b"overlay"], Directory)
    assert resolve(flat.tree, b"sbin/init").node is ours.children[b"init"]


def test_the_images_own_tree_is_not_changed():
    tree = folder({b"sbin": folder({b"x": file()}), b"dev": folder()})
    before = folder({b"sbin": folder({b"x": file()}), b"dev": folder()})
    flat = made(tree, initramfs=True)
    assert not list(differences(tree, before))
    assert get(flat.tree, b"sbin/x") is get(tree, b"sbin/x")


def test_the_link_goes_to_where_a_merged_sbin_leads():
    flat = made(folder({b"usr": folder({b"sbin": folder()}), b"sbin": link(b"usr/sbin")}))
    assert flat.linked
    assert isinstance(get(flat.tree, b"sbin"), Symlink)
    assert get(flat.tree, b"usr/sbin/init").target == b"/.firekiln/init"


@pytest.mark.parametrize(
    "tree",
    [
        folder({b"sbin": folder({b"init": file(b"its own")})}),
        folder({b"sbin": folder({b"init": link(b"/lib/systemd/systemd")})}),
        folder({b"sbin": file(b"no folder")}),
    ],
)
def test_an_image_with_an_init_of_its_own_keeps_it(tree):
    flat = made(tree)
    assert not flat.linked
    assert get(flat.tree, b"sbin/init") is get(tree, b"sbin/init")
    assert get(flat.tree, b".firekiln/init") is not None


def test_an_export_of_an_export_has_the_new_pid_1():
    again = compose(made(folder()).tree, pid1=b"new", document=b"{}")
    assert again.linked
    assert resolve(again.tree, b"sbin/init").node.read() == b"new"


def test_an_initramfs_has_a_console_an_init_and_modules():
    modules = [KernelModule(name="b.ko", data=b"B"), KernelModule(name="a.ko", data=b"A", parameters="x=1")]
    flat = made(folder({b"dev": folder({b"null": file()})}), initramfs=True, modules=modules)
    console = get(flat.tree, b"dev/console")
    assert isinstance(console, Device)
    assert (console.major, console.minor) == (5, 1)
    assert get(flat.tree, b"dev/null") is not None
    assert get(flat.tree, b"init").target == b"/.firekiln/init"
    assert get(flat.tree, b".firekiln/modules.list").read() == b"b.ko\na.ko x=1\n"
    assert get(flat.tree, b".firekiln/modules/a.ko").read() == b"A"
    assert get(flat.tree, b"sbin") is None


def test_an_image_whose_proc_is_a_file_is_refused():
    with pytest.raises(RootfsError, match="/proc of the image is no directory"):
        made(folder({b"proc": file()}))
