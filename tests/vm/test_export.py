"""Exported images, booted by a QEMU that is told no more than a kernel, a command line and a drive."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import firekiln as package
from consoles import answer, free_port, running
from exporting import write
from firekiln.machine.vmm.tsc import host_tsc_khz
from firekiln.store import Store
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


def flat_argv(path, *, words=(), drive=True):
    """QEMU, told a kernel, a command line, and a drive or an initramfs."""
    initrd = path if not drive else path.with_name(f"{path.name}.initrd")
    line = [path.with_name(f"{path.name}.cmdline").read_text().strip(), "no_timer_check"]
    khz = host_tsc_khz()
    line += [f"tsc_early_khz={khz}", "tsc=reliable"] if khz else []
    argv = [*QEMU, *("-kernel", kernel_of(path)), *("-append", " ".join((*line, *words)))]
    argv += ["-initrd", str(initrd)] if initrd.exists() else []
    if drive:
        argv += ["-drive", f"file={path},if=none,id=root,format=raw", "-device", "virtio-blk-device,drive=root"]
    return argv


def boot(path, **options):
    """The console of a boot of an exported image, to its end."""
    argv = flat_argv(path, **options)
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(errors="replace").replace("\r\n", "\n")


def kernel_of(path):
    config = json.loads(path.with_name(f"{path.name}.firecracker.json").read_text())
    return config["boot-source"]["kernel_image_path"]


@pytest.fixture(params=["own", "debian"])
def kernel(request, store):
    """How the flat image's kernel is named to `write`: the store's (Debian's), or ours."""
    return {} if request.param == "debian" else {"kernel": request.getfixturevalue("own_kernel").image}


@pytest.mark.parametrize("kind", ["ext4", "erofs", "squashfs"])
def test_a_flat_image_starts_its_service_from_its_drive(store, image, tmp_path, kind, kernel):
    write(store, image, f"type={kind},dest={tmp_path}/x", **kernel)
    assert (tmp_path / "x.initrd").exists() == (not kernel)  # ours needs nothing but -kernel, -append and the drive
    said = boot(tmp_path / "x")
    assert "i am web in /www, a  b, x$y\n" in said
    assert f"written on {'ext4' if kind == 'ext4' else 'overlay'}\n" in said
    assert "\nyes\n" in said
    assert "firekiln: the process ended with status 7\n" in said
    if kind == "ext4":  # it was left clean, and keeps what was written
        assert b"clean" in subprocess.run(["e2fsck", "-n", tmp_path / "x"], capture_output=True, check=True).stdout


def test_a_cpio_is_an_initramfs_that_starts_its_service(store, image, tmp_path, kernel):
    write(store, image, f"type=cpio,dest={tmp_path}/x,compression=gzip", **kernel)
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


# --- dm-verity --------------------------------------------------------------------------------------------------------

MARK = b"what must not be changed\n"
READER = """
touch /new && echo "changes go to $(grep ' / ' /proc/mounts | cut -d' ' -f3)"
cat /marked > /dev/null && echo "read it all" || echo "the read was stopped"
"""


@pytest.fixture(scope="module")
def marked(store):
    content = folder({b"marked": file(MARK * 10_000)})
    return put_image(store, "marked", busybox(), content, cmd=("/bin/sh", "-c", READER))


def flip(path, offset):
    """Change one bit of the file."""
    with path.open("r+b") as image:
        image.seek(offset)
        (byte,) = image.read(1)
        image.seek(offset)
        image.write(bytes((byte ^ 1,)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ext4", "erofs", "squashfs"])
def test_a_verified_image_is_read_only_and_takes_changes_in_memory(store, marked, tmp_path, kind, kernel):
    write(store, marked, f"type={kind},dest={tmp_path}/x,verity", **kernel)
    said = boot(tmp_path / "x")
    assert "changes go to overlay\nread it all\n" in said


@pytest.mark.parametrize("kind", ["ext4", pytest.param("erofs", marks=pytest.mark.slow)])
def test_a_flipped_bit_stops_the_read(store, marked, tmp_path, kind, kernel):
    path = tmp_path / "x"
    write(store, marked, f"type={kind},dest={path},verity", **kernel)
    flip(path, path.read_bytes().rindex(MARK * 100))
    said = boot(path)
    assert "the read was stopped\n" in said
    assert "read it all" not in said


def test_another_root_hash_stops_the_boot(store, marked, tmp_path, own_kernel):
    path = tmp_path / "x"
    write(store, marked, f"type=ext4,dest={path},verity", kernel=own_kernel.image)
    line = (tmp_path / "x.cmdline").read_text().strip()
    (tmp_path / "x.cmdline").write_text(line[:-1] + ("0" if line[-1] != "0" else "1"))
    said = boot(path)
    assert "firekiln: mounting /dev/dm-0" in said
    assert "read it all" not in said


# --- the example ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.network
def test_the_example_serves_from_a_flat_ext4_by_our_kernel_alone(own_kernel, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("RUN needs root")
    example = Path(__file__).parents[2] / "examples" / "hello"
    with Store.open(tmp_path / "store") as made:
        image = made.images.find(package.build(example, tags=["hello"], store=made).digest)
        write(made, image, f"type=ext4,dest={tmp_path}/x,size=+20M", kernel=own_kernel.image)
    with running(flat_argv(tmp_path / "x")) as console:
        console.await_text("hello-server: serving on port 8080")


# --- disks ------------------------------------------------------------------------------------------------------------

OVMF = Path("/usr/share/OVMF")
ADDRESS = "ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off"
SERVER = "echo serving; while true; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\nfrom the disk' | nc -l -p 8080; done"
DRIVES = {
    "virtio": ("-device", "virtio-blk-pci,drive=disk"),
    "ahci": ("-device", "ide-hd,drive=disk,bus=ide.0"),
    "nvme": ("-device", "nvme,serial=1,drive=disk"),
    "scsi": ("-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk"),
}


@pytest.fixture(scope="module")
def make_disk(store, generic_kernel, tmp_path_factory):
    """A function that exports a disk."""
    for program in ("grub-mkimage", "mformat"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    (store.kernels / generic_kernel.image.parent.name).symlink_to(generic_kernel.image.parent)

    def make(image, words):
        path = tmp_path_factory.mktemp("disk") / "x"
        write(store, image, f"type=raw,dest={path},{words}")
        return path

    return make


@pytest.fixture(scope="module")
def disk(store, make_disk):
    """A disk that serves HTTP."""
    image = put_image(store, "server", busybox(), cmd=("/bin/sh", "-c", SERVER))
    return make_disk(image, f"size=+8M,append={ADDRESS}")


def disk_argv(path, drive, *more):
    return [
        *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults"),
        *("-no-user-config", "-vga", "std", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-drive", f"if=none,id=disk,format=raw,snapshot=on,file={path}", *DRIVES[drive], *more),
    ]


def firmware(name, folder):
    if name == "SeaBIOS":
        return []
    if not OVMF.is_dir():
        pytest.skip("needs ovmf")
    variables = shutil.copy(OVMF / "OVMF_VARS_4M.fd", folder / "variables")
    code = OVMF / "OVMF_CODE_4M.fd"
    return [
        *("-drive", f"if=pflash,format=raw,readonly=on,file={code}"),
        *("-drive", f"if=pflash,format=raw,file={variables}"),
    ]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("drive", ["virtio", "ahci", "nvme", "scsi"])
@pytest.mark.parametrize("bios", ["SeaBIOS", "OVMF"])
def test_a_disk_boots_and_answers(disk, tmp_path, bios, drive):
    port = free_port()
    network = ("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:8080", "-device", "virtio-net-pci,netdev=net")
    argv = disk_argv(disk, drive, *firmware(bios, tmp_path), *network)
    with running(argv) as console:
        console.await_text("serving")
        assert answer(port).endswith("from the disk")


@pytest.mark.slow
@pytest.mark.network
def test_a_flipped_bit_of_a_verified_disk_stops_the_read(make_disk, marked):
    path = make_disk(marked, "verity")
    with running(disk_argv(path, "ahci")) as console:
        console.await_text("changes go to overlay\nread it all\n")
    flip(path, path.read_bytes().rindex(MARK * 100))
    with running(disk_argv(path, "ahci")) as console:
        console.await_text("the read was stopped\n")
        console.await_text("firekiln: the process ended with status 0\n")
