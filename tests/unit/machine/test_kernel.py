import io
import shutil
import struct
import subprocess
import tarfile

import pytest

from firekiln.errors import MachineError, MissingProgramError
from firekiln.machine.kernel import catalog, default_kernel, kernel_file, kernels, pull
from firekiln.machine.kernel.apt import Archive, apt_configuration, apt_sources
from firekiln.machine.kernel.catalog import NewKernel, NewModule
from firekiln.machine.kernel.debian import unpack
from firekiln.machine.kernel.modules import dependencies, load_order, modinfo
from firekiln.machine.kernel.options import features_of, parse_options

ELF = b"\x7fELF and the rest of a kernel"
OPTIONS = "\n".join(
    f"CONFIG_{name}=m" for name in "VIRTIO_MMIO VIRTIO_BLK VIRTIO_CONSOLE OVERLAY_FS EROFS_FS EXT4_FS".split()
)


def module(**info):
    """A 64-bit ELF file with a .modinfo section, and nothing else."""
    data = b"".join(f"{key}={value}".encode() + b"\0" for key, value in info.items())
    names = b"\0.modinfo\0.shstrtab\0"
    start = 64 + len(data) + len(names)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, start, 0, 64, 0, 0, 64, 3, 2
    )
    sections = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, 0, 0, 1, 0)
        for name, kind, offset, size in [(0, 0, 0, 0), (1, 1, 64, len(data)), (10, 3, 64 + len(data), len(names))]
    )
    return header + data + names + sections


def new(version="6.1.9-1", kind="debian", architecture="amd64"):
    extra = NewModule(name="virtio", data=b"module", depends=("virtio_ring",))
    return NewKernel(kind=kind, version=version, architecture=architecture, image=ELF, modules=(extra,))


def test_a_module_tells_what_it_needs():
    made = module(license="GPL", depends="virtio,virtio-ring", name="virtio_blk")
    assert modinfo(made)["license"] == "GPL"
    assert dependencies(made) == ("virtio", "virtio_ring")
    assert dependencies(module(depends="")) == ()


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(80), module(depends="a")[:-100]])
def test_what_is_no_module_is_refused(data):
    with pytest.raises(MachineError, match="not a 64-bit ELF file"):
        dependencies(data)


def test_modules_are_loaded_after_what_they_need_and_once():
    depends = {"virtio_blk": ["virtio"], "virtio_net": ["virtio", "failover"], "virtio": [], "failover": []}
    assert load_order(["virtio-blk", "virtio_net", "virtio", "built_in"], depends) == (
        "virtio",
        "virtio_blk",
        "failover",
        "virtio_net",
    )


def test_modules_that_need_each_other_are_refused():
    with pytest.raises(MachineError, match="a → b → a"):
        load_order(["a"], {"a": ["b"], "b": ["a"]})


def test_a_kernel_is_kept_under_its_digest_and_only_once(tmp_path):
    kept = catalog.add(tmp_path, new())
    assert catalog.add(tmp_path, new()) == kept
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == [kept.digest.removeprefix("sha256:")]
    assert kept.image.read_bytes() == ELF
    assert [item.path.read_bytes() for item in kept.modules] == [b"module"]
    assert kernels(tmp_path) == [kept]


def test_nothing_is_left_of_a_kernel_that_could_not_be_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "_write_all", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        catalog.add(tmp_path, new())
    assert list((tmp_path / "kernels").iterdir()) == []
    assert default_kernel(tmp_path, "amd64") is None


def test_our_own_kernel_comes_before_debians_and_newer_ones_before_older(tmp_path):
    for version, kind in [("6.1.9-1", "debian"), ("6.1.10-1", "debian"), ("5.0", "own")]:
        catalog.add(tmp_path, new(version, kind))
    catalog.add(tmp_path, new("9.0", "own", "arm64"))
    versions = [kernel.version for kernel in kernels(tmp_path) if kernel.architecture == "amd64"]
    assert versions == ["5.0", "6.1.10-1", "6.1.9-1"]
    assert default_kernel(tmp_path, "amd64").kind == "own"


def test_a_damaged_description_is_named(tmp_path):
    kept = catalog.add(tmp_path, new())
    (kept.image.parent / "kernel.json").write_text("{")
    with pytest.raises(MachineError, match="description is damaged"):
        kernels(tmp_path)


def test_a_kernel_file_is_used_where_it_lies(tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(ELF)
    kernel = kernel_file(tmp_path / "root", path, "amd64")
    assert (kernel.kind, kernel.image, kernel.modules) == ("file", path, ())
    with pytest.raises(MachineError, match="cannot be read"):
        kernel_file(tmp_path, tmp_path / "absent", "amd64")


def test_apt_trusts_debians_keyring_alone_and_touches_nothing_of_the_hosts(tmp_path):
    text = apt_configuration(tmp_path, "amd64", 'Acquire::http::Proxy "http://proxy:3128";')
    assert f'Dir::State "{tmp_path}/state";' in text
    assert f'Dir::State::status "{tmp_path}/status";' in text
    assert 'Dir::Etc::trustedparts "/dev/null";' in text
    assert 'Acquire::AllowInsecureRepositories "false";' in text
    assert text.startswith('Acquire::http::Proxy "http://proxy:3128";')
    stanzas = apt_sources(Archive(mirror="http://mirror/debian", suite="trixie")).split("\n\n")
    assert len(stanzas) == 2
    assert all("Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg" in stanza for stanza in stanzas)
    assert "Suites: trixie trixie-updates" in stanzas[0]


def test_without_debians_keyring_nothing_is_fetched(tmp_path):
    with pytest.raises(MissingProgramError) as caught:
        pull(tmp_path, archive=Archive(keyring=tmp_path / "absent.gpg"))
    assert caught.value.hint == "apt-get install debian-archive-keyring"


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="the host has no apt")
def test_an_archive_that_debian_did_not_sign_is_refused(tmp_path):
    release = tmp_path / "debian/dists/bookworm"
    release.mkdir(parents=True)
    (release / "Release").write_text("Suite: bookworm\nCodename: bookworm\n")
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(b"")
    archive = Archive(mirror=f"file:{tmp_path}/debian", security=f"file:{tmp_path}/debian", keyring=keyring)
    with pytest.raises(MachineError, match=r"not signed|InRelease|Release"):
        pull(tmp_path / "root", archive=archive)
    assert kernels(tmp_path / "root") == []


def test_features_are_those_of_the_kernels_options():
    text = "CONFIG_PVH=y\nCONFIG_EROFS_FS=m\n# CONFIG_IP_PNP is not set\n"
    assert features_of(parse_options(text)) == {"pvh", "erofs"}


def debian_package(folder, files):
    """A .deb that holds `files` only."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo("./" + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with tarfile.open(folder / "control.tar", "w"):
        pass
    (folder / "data.tar").write_bytes(data.getvalue())
    (folder / "debian-binary").write_text("2.0\n")
    subprocess.run(["ar", "rc", "made.deb", "debian-binary", "control.tar", "data.tar"], cwd=folder, check=True)
    return folder / "made.deb"


needs_dpkg = pytest.mark.skipif(not (shutil.which("dpkg-deb") and shutil.which("ar")), reason="needs dpkg-deb and ar")


@needs_dpkg
def test_a_package_gives_the_kernel_and_the_modules_that_are_wanted(tmp_path):
    lib = "lib/modules/6.1.0/kernel"
    deb = debian_package(
        tmp_path,
        {
            "boot/vmlinuz-6.1.0": ELF,
            "boot/config-6.1.0": OPTIONS.encode(),
            f"{lib}/drivers/virtio/virtio_mmio.ko": module(depends="virtio"),
            f"{lib}/drivers/virtio/virtio.ko": module(depends=""),
            f"{lib}/drivers/char/hw_random/virtio-rng.ko": module(depends="virtio"),
            f"{lib}/sound/loud.ko": module(depends=""),
        },
    )
    made = unpack(deb, version="6.1", architecture="amd64")
    assert [item.name for item in made.modules] == ["virtio", "virtio_mmio", "virtio_rng"]
    assert made.image == ELF


@needs_dpkg
def test_a_kernel_that_cannot_boot_a_machine_is_refused(tmp_path):
    deb = debian_package(tmp_path, {"boot/vmlinuz-6.1.0": ELF, "boot/config-6.1.0": b"CONFIG_EXT4_FS=y\n"})
    with pytest.raises(MachineError, match="lacks erofs, overlay"):
        unpack(deb, version="6.1", architecture="amd64")
