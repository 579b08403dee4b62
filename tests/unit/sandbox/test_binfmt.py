import pytest

from firekiln.sandbox import binfmt

QEMU = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


def folder(tmp_path, status="enabled\n", **handlers):
    (tmp_path / "status").write_text(status)
    (tmp_path / "register").write_text("")
    for name, text in handlers.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_handler_that_debian_registers_is_found(tmp_path):
    place = folder(tmp_path, python="enabled\ninterpreter /usr/bin/python3\nflags: \noffset 0\nmagic 6f0d\n", qemu=QEMU)
    assert binfmt.find("arm64", place).interpreter == "/usr/libexec/qemu-binfmt/aarch64-binfmt-P"
    assert binfmt.problem("arm64", place) is None
    assert binfmt.problem("riscv64", place) == "no emulator for them is registered"


def test_a_handler_with_flag_f_goes_before_one_without(tmp_path):
    place = folder(tmp_path, a=QEMU.replace("POCF", "OC").replace("aarch64", "other"), b=QEMU)
    assert "aarch64" in binfmt.find("arm64", place).interpreter
    (place / "b").unlink()
    assert "without the flag F" in binfmt.problem("arm64", place)


@pytest.mark.parametrize(
    "text", ["", "disabled\n" + QEMU.partition("\n")[2], "enabled\ninterpreter /x\nextension .py\n"]
)
def test_other_handlers_are_passed_over(tmp_path, text):
    assert binfmt.find("arm64", folder(tmp_path, odd=text)) is None


def test_nothing_is_found_where_it_is_switched_off_or_absent(tmp_path):
    assert binfmt.find("arm64", folder(tmp_path, status="disabled\n", qemu=QEMU)) is None
    assert binfmt.find("arm64", tmp_path / "absent") is None
    assert binfmt.find("pdp11", folder(tmp_path, qemu=QEMU)) is None


def test_headers_are_of_either_byte_order():
    assert binfmt.elf_header("s390x")[4:6] == b"\x02\x02"
    assert binfmt.elf_header("s390x")[16:20] == b"\0\x02\0\x16"
    assert binfmt.elf_header("386")[4:6] == b"\x01\x01"
