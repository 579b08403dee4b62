"""Which VMM a machine gets, and what its guest is told then."""

from dataclasses import replace
from pathlib import Path

import pytest

from firekiln.errors import UsageError
from firekiln.machine.guest.channel import Console, SerialPort, Vsock
from firekiln.machine.guest.contract import Drive, DriveMount, FlatRoot, MachineDocument, Root, TmpfsMount
from firekiln.machine.process import Process
from firekiln.machine.vmm.choice import choose_name, fitted, guest_modules
from firekiln.machine.vmm.firecracker.document import for_firecracker
from firekiln.machine.vmm.spec import BlockDevice, MachineSpec
from firekiln.oci.platform import Platform

SERIALS = ("layer0", "layer1", "scratch", "volume-a")
DRIVES = tuple(BlockDevice(serial=name, path=Path(f"/{name}"), readonly=name.startswith("layer")) for name in SERIALS)
TMPFS = TmpfsMount(target="/tmp")
DOCUMENT = MachineDocument(
    hostname="bert",
    root=Root(layers=(Drive(serial="layer0"), Drive(serial="layer1")), scratch=Drive(serial="scratch")),
    process=Process(argv=("/bin/true",), env=()),
    mounts=(TMPFS, DriveMount(target="/data", drive=Drive(serial="volume-a"), subpath="x")),
)
SPEC = MachineSpec(
    name="a",
    architecture=Platform.host().architecture,
    kernel=Path("/k"),
    initramfs=Path("/i"),
    drives=DRIVES,
)


def test_firecrackers_guests_know_drives_by_their_places_and_talk_by_vsock():
    made = for_firecracker(DOCUMENT, DRIVES)
    assert made.root == Root(layers=(Drive(index=0), Drive(index=1)), scratch=Drive(index=2))
    assert made.mounts == (TMPFS, DriveMount(target="/data", drive=Drive(index=3), subpath="x"))
    assert made.channel == Vsock()
    assert replace(made, root=DOCUMENT.root, mounts=DOCUMENT.mounts, channel=DOCUMENT.channel) == DOCUMENT
    bare = replace(DOCUMENT, root=Root(layers=(Drive(index=0),)), mounts=(), channel=Console())
    assert for_firecracker(bare, DRIVES).root == bare.root
    assert for_firecracker(replace(bare, root=FlatRoot()), ()).root == FlatRoot()


def test_qemus_guests_are_told_what_all_are():
    assert fitted("qemu", SPEC, DOCUMENT) is DOCUMENT
    assert DOCUMENT.channel == SerialPort()
    assert fitted("firecracker", SPEC, DOCUMENT) == for_firecracker(DOCUMENT, DRIVES)


def test_firecracker_emulates_no_other_architecture():
    other = {"amd64": "arm64", "arm64": "amd64"}[SPEC.architecture]
    with pytest.raises(UsageError, match=f"linux/{other} runs by QEMU"):
        fitted("firecracker", replace(SPEC, architecture=other), DOCUMENT)


def test_each_vmms_guests_get_the_modules_for_its_devices():
    assert "virtio_console" in guest_modules("qemu")
    assert "vmw_vsock_virtio_transport" in guest_modules("firecracker")
    for name in ("qemu", "firecracker"):
        assert {"virtio_mmio", "virtio_blk", "virtio_rng", "overlay", "erofs", "ext4"} <= set(guest_modules(name))


def test_auto_is_qemu_unless_only_firecracker_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_name("auto", "amd64") == "qemu"
    for program, expected in (("firecracker", "firecracker"), ("qemu-system-x86_64", "qemu")):
        (tmp_path / program).write_text("")
        (tmp_path / program).chmod(0o755)
        assert choose_name("auto", "amd64") == expected
    assert choose_name("firecracker", "amd64") == "firecracker"
    assert choose_name("qemu", "amd64") == "qemu"
