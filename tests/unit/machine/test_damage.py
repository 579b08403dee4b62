"""What a machine boots is what its digest says: damaged kernels, merged drives and initramfs are made anew."""

from __future__ import annotations

import os

import pytest

from firekiln.errors import DamagedError
from firekiln.machine.guest.base import kept_initramfs
from firekiln.machine.kernel import intact_kernel
from firekiln.machine.kernel.catalog import NewKernel, NewModule, add
from firekiln.machine.vmm.drives import layer_drives
from firekiln.machine.vmm.qemu import GUEST_MODULES
from firekiln.machine.vmm.spec import LAYER_DRIVES
from firekiln.store import Store
from trees import file, folder


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as made:
        yield made


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def put_kernel(store, version):
    module = NewModule(name="virtio", data=b"module", depends=())
    new = NewKernel(kind="debian", version=version, architecture="amd64", image=b"\x7fELF" * 99, modules=(module,))
    return add(store.root, new)


@pytest.mark.parametrize("name", ["vmlinux", "modules/virtio.ko", "kernel.json"])
def test_a_damaged_kernel_is_set_aside_for_the_next_best(store, name):
    old, newer = put_kernel(store, "6.1.1"), put_kernel(store, "6.1.2")
    assert intact_kernel(store, "amd64") == newer
    flip(newer.image.parent / name)
    assert intact_kernel(store, "amd64") == old
    assert not newer.image.parent.exists()
    flip(old.image.parent / name)
    assert intact_kernel(store, "amd64") is None
    assert len(list((store.root / "damaged").iterdir())) == 2
    assert put_kernel(store, "6.1.2") == intact_kernel(store, "amd64")


def layers_of(store, count):
    return [store.layers.commit(folder({b"f%d" % number: file(b"x" * 9999)})) for number in range(count)]


def test_a_damaged_merged_drive_is_merged_again(store):
    layers = layers_of(store, LAYER_DRIVES + 3)
    first = layer_drives(store, layers)[0]
    right = first.path.read_bytes()
    flip(first.path)
    again = layer_drives(store, layers)[0]
    assert again.digest == first.digest
    assert again.path.read_bytes() == right


@pytest.mark.parametrize("count", [1, LAYER_DRIVES + 3])
def test_no_machine_gets_a_damaged_layer(store, count):
    layers = layers_of(store, count)
    layer_drives(store, layers)
    flip(layers[0].path)
    with pytest.raises(DamagedError, match=f"lacks the layer {layers[0].digest}"):
        layer_drives(store, layers)


def test_a_damaged_initramfs_is_made_again(store):
    kernel = put_kernel(store, "6.1.1")
    path = kept_initramfs(store, kernel, GUEST_MODULES)
    right, inode = path.read_bytes(), path.stat().st_ino
    assert kept_initramfs(store, kernel, GUEST_MODULES).stat().st_ino == inode
    flip(path)
    assert kept_initramfs(store, kernel, GUEST_MODULES).read_bytes() == right
    os.truncate(path, 0)
    with Store.open(store.root) as another:
        assert kept_initramfs(another, kernel, GUEST_MODULES).read_bytes() == right


def test_adding_a_kernel_leaves_nothing_else(store):
    put_kernel(store, "6.1.1")
    assert list((store.root / "tmp").iterdir()) == []
    assert [path.name for path in store.kernels.iterdir()] == [intact_kernel(store, "amd64").digest[7:]]
