"""The initramfs, read back by the format's rules, and by the kernel's rule of four bytes."""

import json
import stat

import pytest

from firekiln.machine.guest.contract import Drive, MachineDocument, Root
from firekiln.machine.guest.initramfs import KernelModule, base_initramfs, document_archive, write_initramfs
from firekiln.machine.process import Process

MODULES = [
    KernelModule(name="b.ko", data=b"second-named, first loaded"),
    KernelModule(name="a.ko", data=b"odd", parameters="x=1 y=2"),
]


@pytest.fixture
def document():
    process = Process(argv=("/x",), env=("SECRET=1",))
    return MachineDocument(hostname="box", root=Root(layers=(Drive(serial="l0"),)), process=process)


def entries(archive):
    """Names to mode and content, read by the format's own rules."""
    found, position = {}, 0
    while True:
        assert archive[position : position + 6] == b"070701"
        assert position % 4 == 0
        fields = [int(archive[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[position + 110 : position + 110 + length].removesuffix(b"\0").decode()
        start = -(-(position + 110 + length) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[start : start + size])
        position = -(-(start + size) // 4) * 4


def test_the_base_holds_pid_1_and_the_modules_in_their_order():
    made = entries(base_initramfs(b"\x7fELF", MODULES))
    assert made["init"] == (stat.S_IFREG | 0o700, b"\x7fELF")
    assert made["firekiln/modules.list"][1] == b"b.ko\na.ko x=1 y=2\n"
    assert made["firekiln/modules/a.ko"][1] == b"odd"
    assert stat.S_ISCHR(made["dev/console"][0])
    names = list(made)
    assert all("/" not in name or names.index(name.rpartition("/")[0]) < names.index(name) for name in names)


def test_the_document_is_for_root_alone(document):
    mode, data = entries(document_archive(document))["firekiln/machine.json"]
    assert mode == stat.S_IFREG | 0o600
    assert json.loads(data)["hostname"] == "box"


@pytest.mark.parametrize("surplus", range(4))
def test_the_second_archive_begins_at_a_multiple_of_four(tmp_path, document, surplus):
    base = base_initramfs(b"\x7fELF") + b"\0" * surplus
    (tmp_path / "base").write_bytes(base)
    path = tmp_path / "initramfs"
    write_initramfs(path, tmp_path / "base", document)
    data = path.read_bytes()
    assert data.startswith(base)
    start = data.index(b"070701", len(base))
    assert start % 4 == 0
    assert start - len(base) < 4
    assert data[start:] == document_archive(document)
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_existing_initramfs_is_not_overwritten(tmp_path, document):
    (tmp_path / "base").write_bytes(base_initramfs(b"x"))
    (tmp_path / "initramfs").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_initramfs(tmp_path / "initramfs", tmp_path / "base", document)
    assert (tmp_path / "initramfs").read_bytes() == b"mine"


def test_the_same_input_gives_the_same_bytes():
    assert base_initramfs(b"x", MODULES) == base_initramfs(b"x", MODULES)
