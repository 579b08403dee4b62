"""Disks: their tables, boot loader and file systems, as other people's programs read them."""

import json
import shutil
import struct
import subprocess
import uuid
import zlib

import pytest

from exporting import add_kernel, write
from firekiln.errors import MissingProgramError, UsageError
from firekiln.machine.export import fat, gpt, grub
from firekiln.machine.export.gpt import Partition
from firekiln.rootfs import cpio, ext4
from firekiln.rootfs.lookup import get

SGDISK, SFDISK = (shutil.which(name) or shutil.which(name, path="/usr/sbin") for name in ("sgdisk", "sfdisk"))
MIB = 1 << 20

needs_loaders = pytest.mark.skipif(
    not (shutil.which("grub-mkimage") and shutil.which("mformat")),
    reason="needs grub-pc-bin, grub-efi-amd64-bin, mtools",
)


@pytest.fixture
def disk(store, image, tmp_path):
    """A function that writes a disk; its kernel and modules are no more than names."""
    add_kernel(store, "ahci", "ext4", kind="generic")

    def make(name="x", words=""):
        write(store, image, f"type=raw,dest={tmp_path}/{name}{words}")
        return tmp_path / name

    return make


def partitions(path):
    """Start and size in bytes, by name."""
    done = subprocess.run([SFDISK, "--json", path], capture_output=True, check=True)
    table = json.loads(done.stdout)["partitiontable"]["partitions"]
    return {entry["name"]: (entry["start"] * 512, entry["size"] * 512) for entry in table}


def on_esp(path, name):
    start, _ = partitions(path)["EFI system"]
    return subprocess.run(["mtype", "-i", f"{path}@@{start}", f"::/{name}"], capture_output=True, check=True).stdout


@pytest.mark.skipif(not (SGDISK and SFDISK), reason="needs gdisk and fdisk")
def test_two_programs_find_no_fault_with_the_tables(tmp_path):
    path = tmp_path / "x"
    ids = [uuid.uuid5(uuid.NAMESPACE_DNS, name) for name in ("disk", "a", "b")]
    parts = [
        Partition(kind=gpt.BIOS_BOOT, id=ids[1], name="first", start=MIB, size=MIB),
        Partition(kind=gpt.LINUX_ROOT_X86_64, id=ids[2], name="n" * 36, start=2 * MIB, size=5 * MIB),
    ]
    tables = gpt.tables(parts, disk=ids[0], size=8 * MIB)
    with path.open("wb") as file:
        file.write(tables.first)
        file.seek(8 * MIB - len(tables.last))
        file.write(tables.last)
    assert (
        "No problems found" in subprocess.run([SGDISK, "-v", path], capture_output=True, text=True, check=True).stdout
    )
    assert (
        "No errors detected"
        in subprocess.run([SFDISK, "--verify", path], capture_output=True, text=True, check=True).stdout
    )
    assert partitions(path) == {"first": (MIB, MIB), "n" * 36: (2 * MIB, 5 * MIB)}
    printed = subprocess.run([SGDISK, "-p", path], capture_output=True, text=True, check=True).stdout
    assert str(ids[0]).upper() in printed


def test_both_headers_name_each_other_and_bear_their_checksums():
    tables = gpt.tables([], disk=uuid.UUID(int=1), size=8 * MIB)
    primary, backup = tables.first[512:604], tables.last[-512:-420]
    for header, entries in ((primary, tables.first[1024:]), (backup, tables.last[:-512])):
        (checksum,) = struct.unpack_from("<I", header, 16)
        assert checksum == zlib.crc32(header[:16] + bytes(4) + header[20:])
        assert struct.unpack_from("<I", header, 88)[0] == zlib.crc32(entries)
    last = 8 * MIB // 512 - 1
    assert struct.unpack_from("<QQ", primary, 24) == (1, last)
    assert struct.unpack_from("<QQ", backup, 24) == (last, 1)


def test_the_loaders_first_stages_are_told_where_the_next_ones_lie():
    code = grub.boot_code(bytes(range(256)) * 2, 2048)
    assert len(code) == 440
    assert struct.unpack_from("<Q", code, 0x5C) == (2048,)
    core = grub.placed(b"c" * 1500, 2048)
    assert len(core) == 1536
    assert struct.unpack_from("<QHH", core, 500) == (2049, 2, 0x820)


def test_the_menu_offers_both_consoles_and_prefers_the_serial_one():
    first, second = grub.Menu(title="web", words=["root=UUID=1", "rw"]).text().split("menuentry")[1:]
    assert first.startswith(" 'web' {\n  linux /vmlinuz root=UUID=1 rw console=tty0 console=ttyS0,115200\n")
    assert " console=ttyS0,115200 console=tty0\n" in second


@needs_loaders
def test_a_fat_holds_its_files_and_has_the_same_bytes_each_time(tmp_path):
    files = {"EFI/BOOT/BOOTX64.EFI": b"efi" * 5000, "vmlinuz": b"kernel"}
    for name in ("a", "b"):
        path = tmp_path / name
        path.write_bytes(bytes(20 * MIB))
        fat.write(path, start=2 * MIB, size=16 * MIB, serial=0x1234ABCD, label="EFI", files=files)
    assert path.read_bytes() == (tmp_path / "a").read_bytes()
    for name, data in files.items():
        argv = ["mtype", "-i", f"{path}@@{2 * MIB}", f"::/{name}"]
        assert subprocess.run(argv, capture_output=True, check=True).stdout == data
    (tmp_path / "fat").write_bytes(path.read_bytes()[2 * MIB : 18 * MIB])
    if fsck := shutil.which("fsck.fat", path="/usr/sbin:/sbin"):
        subprocess.run([fsck, "-n", tmp_path / "fat"], capture_output=True, check=True)
    assert fat.volume_id(0x1234ABCD) == "1234-ABCD"


@needs_loaders
@pytest.mark.skipif(not SFDISK, reason="needs fdisk")
def test_a_disk_holds_loader_kernel_initramfs_and_the_image(disk, image, tmp_path):
    path = disk(words=",size=+4M,append=ip=dhcp a.b=1")
    places = partitions(path)
    assert list(places) == ["BIOS boot", "EFI system", "root"]
    assert path.stat().st_size % MIB == 0
    start, size = places["root"]
    (tmp_path / "root").write_bytes(path.read_bytes()[start : start + size])
    subprocess.run(["e2fsck", "-fn", tmp_path / "root"], capture_output=True, check=True)
    tree = ext4.read(tmp_path / "root")
    document = json.loads(get(tree, b".firekiln/machine.json").read())
    assert document["process"]["argv"] == ["/bin/app", "a b"]
    assert get(tree, b"usr/sbin/init").target == b"/.firekiln/init"
    menu = on_esp(path, "grub.cfg").decode()
    assert f"linux /vmlinuz root=UUID={filesystem_uuid(tmp_path / 'root')} rootfstype=ext4 rw " in menu
    assert " ip=dhcp a.b=1 console=tty0 " in menu
    assert on_esp(path, "EFI/BOOT/BOOTX64.EFI").startswith(b"MZ")
    (tmp_path / "initrd").write_bytes(on_esp(path, "initrd.img"))
    initrd = cpio.read(tmp_path / "initrd")
    assert get(initrd, b"firekiln/modules.list").read() == b"ahci.ko\next4.ko\n"
    assert json.loads((tmp_path / "x.config.json").read_text()) == image.image.to_json()
    assert not (tmp_path / "x.cmdline").exists()


def filesystem_uuid(path):
    with path.open("rb") as file:
        file.seek(1024 + 104)
        return uuid.UUID(bytes=file.read(16))


@needs_loaders
@pytest.mark.parametrize("words", ["", ",verity"])
def test_a_disk_of_the_same_image_has_the_same_bytes(disk, words):
    assert disk("a", words).read_bytes() == disk("b", words).read_bytes()


@needs_loaders
@pytest.mark.skipif(not SFDISK, reason="needs fdisk")
def test_a_verified_disk_has_its_tree_in_the_root_partition(disk, tmp_path):
    path = disk(words=",verity")
    menu = on_esp(path, "grub.cfg").decode()
    word = next(word for word in menu.split() if word.startswith("firekiln.verity="))
    blocks = int(word.removeprefix("firekiln.verity=").split(":")[0])
    start, size = partitions(path)["root"]
    assert path.read_bytes()[start + blocks * 4096 :].startswith(b"verity\0\0")
    assert size > (blocks + 1) * 4096
    assert " ro firekiln.verity=" in menu


@pytest.mark.parametrize("words", ["boot=false", "append=a'b", "append=a;b", "append=é"])
def test_what_a_disk_cannot_be_is_said(store, image, tmp_path, words):
    with pytest.raises(UsageError, match=r"type=raw|append"):
        write(store, image, f"type=raw,dest={tmp_path}/x,{words}")
    assert list(tmp_path.glob("x*")) == []


def test_a_missing_loader_is_named_with_its_package(disk, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgramError, match="mformat") as error:
        disk()
    assert "apt-get install mtools" in error.value.hint
    for name in ("mformat", "mmd", "mcopy"):
        (tmp_path / name).touch(mode=0o755)
    with pytest.raises(MissingProgramError, match="grub-mkimage") as error:
        disk()
    assert "apt-get install grub-common" in error.value.hint
    assert list(tmp_path.glob("*x*")) == []
