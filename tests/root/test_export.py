"""Exported file systems as the kernel and their own checkers see them."""

import dataclasses
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from exporting import MODULES, add_kernel, lower, upper, write
from firekiln.rootfs import directory
from firekiln.rootfs.compare import differences
from firekiln.rootfs.tree import Directory
from firekiln.store import Store
from machines import put_image

pytestmark = pytest.mark.root
CHECKERS = {"ext4": ("e2fsck", "-fn"), "erofs": ("fsck.erofs",), "squashfs": ("unsquashfs", "-s")}


@contextmanager
def mounted(path, folder, kind):
    folder.mkdir()
    subprocess.run(["mount", "-t", kind, "-o", "ro,loop", path, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as made:
        add_kernel(made, *MODULES)
        yield made


def whole_seconds(tree):
    """As squashfs keeps times. Hard links stay one node."""
    known = {}

    def cut(node):
        if id(node) not in known:
            meta = dataclasses.replace(node.meta, mtime_ns=node.meta.mtime_ns // 10**9 * 10**9)
            if isinstance(node, Directory):
                known[id(node)] = Directory(meta=meta, children={n: cut(c) for n, c in node.children.items()})
            else:
                known[id(node)] = dataclasses.replace(node, meta=meta)
        return known[id(node)]

    return cut(tree)


@pytest.mark.parametrize("kind", ["ext4", "erofs", "squashfs"])
def test_the_kernel_shows_the_merged_tree_of_the_image(store, tmp_path, kind):
    if kind == "squashfs" and not shutil.which("mksquashfs"):
        pytest.skip("needs squashfs-tools")
    image = put_image(store, "app", lower(), upper(), cmd=("/bin/app",))
    merged = store.layers.merged(image.layers)
    write(store, image, f"type={kind},dest={tmp_path}/x,boot=false")
    with mounted(tmp_path / "x", tmp_path / "mnt", kind) as root, directory.opened(root, xattrs=True) as tree:
        children = {name: node for name, node in tree.children.items() if name != b"lost+found"}
        seen = Directory(meta=tree.meta, children=children)
        assert not list(differences(seen, whole_seconds(merged) if kind == "squashfs" else merged))


@pytest.mark.parametrize("kind", CHECKERS)
def test_its_own_checker_finds_no_fault_with_an_image_that_boots(store, tmp_path, kind):
    if not shutil.which(CHECKERS[kind][0]):
        pytest.skip(f"needs {CHECKERS[kind][0]}")
    image = put_image(store, "app", lower(), upper(), cmd=("/bin/app",))
    write(store, image, f"type={kind},dest={tmp_path}/x")
    done = subprocess.run([*CHECKERS[kind], tmp_path / "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with mounted(tmp_path / "x", tmp_path / "mnt", kind) as root:
        assert (root / "sbin" / "init").readlink().as_posix() == "/.firekiln/init"
        assert (root / ".firekiln").stat().st_mode & 0o7777 == 0o700
        assert (root / ".firekiln/machine.json").stat().st_mode & 0o7777 == 0o600


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-utils")
@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_a_qcow2_holds_the_same_ext4(store, tmp_path, compression):
    image = put_image(store, "app", lower(), upper(), cmd=("/bin/app",))
    write(store, image, f"type=qcow2,dest={tmp_path}/q,compression={compression},size=+8M,label=web")
    write(store, image, f"type=ext4,dest={tmp_path}/x,size=+8M,label=web")
    subprocess.run(["qemu-img", "check", "-q", tmp_path / "q"], check=True)
    subprocess.run(["qemu-img", "compare", "-q", tmp_path / "q", tmp_path / "x"], check=True)
    assert not (tmp_path / "q.firecracker.json").exists()


@pytest.mark.parametrize("kind", ["ext4", "erofs", "squashfs", "cpio", "raw"])
def test_an_ordinary_user_gets_the_same_bytes_as_root(kind):
    if kind == "squashfs" and not shutil.which("mksquashfs"):
        pytest.skip("needs squashfs-tools")
    if kind == "raw" and not (shutil.which("grub-mkimage") and shutil.which("mformat")):
        pytest.skip("needs grub-pc-bin, grub-efi-amd64-bin, mtools")
    with tempfile.TemporaryDirectory() as name, Store.open(Path(name) / "store") as store:
        add_kernel(store, *MODULES)
        add_kernel(store, *MODULES, kind="generic")
        image = put_image(store, "app", lower(), upper(), cmd=("/bin/app",))
        write(store, image, f"type={kind},dest={name}/root")
        Path(name).chmod(0o777)
        subprocess.run(["chown", "-R", "65534:65534", store.root], check=True)
        child = os.fork()
        if child == 0:
            status = 1
            with suppress(BaseException):
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                write(store, image, f"type={kind},dest={name}/user")
                status = 0
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (Path(name) / "user").read_bytes() == (Path(name) / "root").read_bytes()
