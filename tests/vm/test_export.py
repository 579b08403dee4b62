"""Exported images, booted by a QEMU that is told no more than a kernel, a command line and a drive."""

import json
import subprocess

import pytest

from exporting import write
from firekiln.machine.tsc import host_tsc_khz
from machines import busybox, put_image
from trees import file, folder

SCRIPT = """
echo "i am $(id -un) in $(pwd), $1, $WORD"
touch here && echo "written on $(grep ' / ' /proc/mounts | cut -d' ' -f3)"
sed -n 's/^root=//p' /etc/machine
exit 7
"""
QEMU = (
    *("qemu-system-x86_64", "-M", "microvm,x-option-roms=off,isa-serial=on,rtc=on", "-accel", "tcg", "-cpu", "max"),
    *("-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
)


@pytest.fixture(scope="module")
def image(store):
    ours = folder({b"www": folder({}, mode=0o1777), b"etc": folder({b"machine": file(b"root=yes\n")})})
    command = {"entrypoint": ("/bin/sh", "-c", SCRIPT, "sh"), "cmd": ("a  b",)}
    return put_image(store, "flat", busybox(), ours, **command, env=("WORD=x$y",), user="web", working_dir="/www")


def boot(path, *, words=(), drive=True):
    """The console of a boot of an exported image, to its end."""
    initrd = path if not drive else path.with_name(f"{path.name}.initrd")
    line = [path.with_name(f"{path.name}.cmdline").read_text().strip(), "no_timer_check"]
    khz = host_tsc_khz()
    line += [f"tsc_early_khz={khz}", "tsc=reliable"] if khz else []
    argv = [*QEMU, *("-kernel", kernel_of(path)), *("-append", " ".join((*line, *words)))]
    argv += ["-initrd", str(initrd)] if initrd.exists() else []
    if drive:
        argv += ["-drive", f"file={path},if=none,id=root,format=raw", "-device", "virtio-blk-device,drive=root"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(errors="replace").replace("\r\n", "\n")


def kernel_of(path):
    config = json.loads(path.with_name(f"{path.name}.firecracker.json").read_text())
    return config["boot-source"]["kernel_image_path"]


@pytest.mark.parametrize(("kind", "root"), [("ext4", "ext4"), ("erofs", "overlay"), ("squashfs", "overlay")])
def test_a_flat_image_starts_its_service_from_its_drive(store, image, tmp_path, kind, root):
    write(store, image, f"type={kind},dest={tmp_path}/x")
    said = boot(tmp_path / "x")
    assert "i am web in /www, a  b, x$y\n" in said
    assert f"written on {root}\n" in said
    assert "\nyes\n" in said
    assert "firekiln: the process ended with status 7\n" in said
    if kind == "ext4":  # it was left clean, and keeps what was written
        assert b"clean" in subprocess.run(["e2fsck", "-n", tmp_path / "x"], capture_output=True, check=True).stdout


def test_a_cpio_is_an_initramfs_that_starts_its_service(store, image, tmp_path):
    write(store, image, f"type=cpio,dest={tmp_path}/x,compression=gzip")
    said = boot(tmp_path / "x", drive=False)
    assert "i am web in /www, a  b, x$y\n" in said
    assert "written on rootfs\n" in said
    assert "firekiln: the process ended with status 7\n" in said


def test_an_image_with_an_init_of_its_own_boots_by_ours(store, tmp_path):
    own = folder({b"sbin": folder({b"init": file(b"#!/bin/sh\necho wrong; reboot -f\n", mode=0o755)})})
    image = put_image(store, "own-init", busybox(), own, cmd=("/bin/sh", "-c", "hostname; cat /etc/resolv.conf"))
    write(store, image, f"type=ext4,dest={tmp_path}/x,size=32M,hostname=kiln")
    said = boot(tmp_path / "x", words=["ip=127.0.0.5:::255.0.0.0::lo:off:9.9.9.9"])
    assert "wrong" not in said
    assert "\nkiln\nnameserver 9.9.9.9\n" in said
