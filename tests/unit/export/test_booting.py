"""Command lines and Firecracker's configuration."""

from pathlib import Path

import pytest

from firekiln.machine.export import Cpio, Erofs, Ext4, Squashfs
from firekiln.machine.export.booting import Booting
from firekiln.machine.export.verity import Verity
from firekiln.machine.kernel import Kernel

KERNEL = Kernel(kind="own", version="6", architecture="amd64", digest="sha256:0", image=Path("/k/vmlinux"))
SCHEMA = Path(__file__).parents[4] / "shared" / "firecracker" / "firecracker.yaml"


def booting(output, *, linked=True, verity=None):
    return Booting(output=output, kernel=KERNEL, linked=linked, verity=verity)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (Ext4(dest="x"), ["root=/dev/vda", "rw", "rootfstype=ext4"]),
        (Erofs(dest="x"), ["root=/dev/vda", "ro", "rootfstype=erofs"]),
        (Squashfs(dest="x"), ["root=/dev/vda", "ro", "rootfstype=squashfs"]),
    ],
)
def test_the_command_line_names_the_root_and_how_it_is_mounted(output, words):
    assert booting(output).command_line().split()[-3:] == words
    assert booting(output, linked=False).command_line().split()[-1] == "init=/.firekiln/init"


def test_a_verified_root_is_read_only_and_its_hash_is_told_to_every_vmm():
    check = Verity(blocks=7, salt=b"\1\2", root=b"\3" * 32)
    made = booting(Ext4(dest="x", verity=True), linked=False, verity=check)
    word = f"firekiln.verity=7:0102:{'03' * 32}"
    words = ["root=/dev/vda", "ro", "rootfstype=ext4", word, "init=/.firekiln/init"]
    assert made.command_line().split()[-5:] == words
    firecracker = made.firecracker(Path("/d/x"), Path("/d/x.initrd"))
    assert word in firecracker["boot-source"]["boot_args"].split()
    assert firecracker["drives"][0]["is_read_only"]


def test_an_initramfs_has_no_root():
    line = booting(Cpio(dest="x")).command_line()
    assert "root" not in line.replace("firekiln", "")
    assert booting(Cpio(dest="x"), linked=False).command_line().endswith(" rdinit=/.firekiln/init")


def test_firecracker_adds_the_root_itself():
    made = booting(Ext4(dest="x")).firecracker(Path("/d/x"), Path("/d/x.initrd"))
    assert made["boot-source"]["initrd_path"] == "/d/x.initrd"
    assert "root=" not in made["boot-source"]["boot_args"]
    assert "reboot=k" in made["boot-source"]["boot_args"]
    (drive,) = made["drives"]
    assert drive["path_on_host"] == "/d/x"
    assert drive["is_root_device"]
    assert not drive["is_read_only"]


@pytest.mark.parametrize("output", [Ext4(dest="x"), Erofs(dest="x"), Squashfs(dest="x"), Cpio(dest="x")])
@pytest.mark.parametrize("initrd", [None, Path("/d/initrd")])
def test_the_configuration_is_what_firecrackers_own_schema_allows(output, initrd):
    yaml = pytest.importorskip("yaml")
    if not SCHEMA.is_file():
        pytest.skip("Firecracker's description of its API is not here")
    definitions = yaml.safe_load(SCHEMA.read_text())["definitions"]
    conforms(booting(output).firecracker(Path("/d/x"), initrd), definitions["FullVmConfiguration"], definitions)


def conforms(value, schema, definitions):
    """As far as that description goes: types, required and known keys, ranges."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    kind = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}[schema["type"]]
    assert type(value) is kind
    if kind is dict:
        assert set(value) <= set(schema["properties"])
        assert set(schema.get("required", ())) <= set(value)
        for key, member in value.items():
            conforms(member, schema["properties"][key], definitions)
    if kind is list:
        for item in value:
            conforms(item, schema["items"], definitions)
    if kind is int:
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if "enum" in schema:
        assert value in schema["enum"]
