"""Images that travel by a registry boot elsewhere as they did here; what a VMM alone needs lies beside them."""

import hashlib
import json
import shutil
import tarfile
import zlib

import pytest

import firekiln
from firekiln import api
from firekiln.build.registry import open_repository
from firekiln.machine.kernel import kernels
from firekiln.machine.machine import Machine
from firekiln.machine.options import RunOptions
from firekiln.machine.run import start
from firekiln.machine.supervision.state import State
from firekiln.oci.reference import Reference
from firekiln.store import Store
from machines import BUSYBOX, output
from registries import docker_registry, get

DOCKERFILE = b"""
FROM scratch
COPY --chmod=755 busybox /bin/sh
RUN ["/bin/sh", "-c", "echo 33:33:/: > /made && exec /bin/sh --install -s /bin"]
USER 33
WORKDIR /work
ENV GREETING="hello there"
STOPSIGNAL SIGUSR1
LABEL some=label
CMD ["/bin/sh", "-c", "echo $GREETING; id -u; pwd"]
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def pushed(registry, store, tmp_path_factory):
    """An image that was built here and pushed, with its VM artifact."""
    context = tmp_path_factory.mktemp("context")
    shutil.copy(BUSYBOX, context / "busybox")
    name = f"{registry.host}/kiln/hello:1"
    built = firekiln.build(context, dockerfile=DOCKERFILE, tags=[name], store=store)
    return name, built, firekiln.push(name, store=store, vm=True)


def test_an_image_that_is_pulled_into_an_empty_store_boots_the_same(pushed, kernel_folder, tmp_path):
    name, built, _ = pushed
    with Store.open(tmp_path / "store") as other:
        for kernel in kernels(kernel_folder):
            (other.kernels / kernel.image.parent.name).symlink_to(kernel.image.parent)
        assert firekiln.pull(name, store=other).image.digest == built.digest
        with start(other, RunOptions(image=name)) as machine:
            assert machine.wait() == 0
            assert output(machine) == "hello there\n33\n/work\n"
        for record in State(other.machines).list():
            Machine(State(other.machines), record.id).remove(force=True)
        assert other.images.get(name).image.config.labels == {"some": "label"}


def test_a_vm_artifact_refers_to_the_image_and_holds_what_a_vmm_wants(pushed, registry):
    name, _, image = pushed
    with open_repository(Reference.parse(name)) as repository:
        (entry,) = repository.referrers(image.digest, "application/vnd.firekiln.vm.v1").manifests
        manifest = json.loads(repository.resolve(entry.digest)[1])
    assert manifest["subject"]["digest"] == image.digest
    files = {layer["annotations"]["org.opencontainers.image.title"]: layer for layer in manifest["layers"]}
    assert {"rootfs.ext4", "vmlinux", "cmdline", "config.json", "firecracker.json"} <= files.keys()

    def content(title):
        data = get(f"http://{registry.host}/v2/kiln/hello/blobs/{files[title]['digest']}")
        assert "sha256:" + hashlib.sha256(data).hexdigest() == files[title]["digest"]
        return data

    assert content("rootfs.ext4")[1080:1082] == b"\x53\xef"
    assert content("vmlinux")[:4] == b"\x7fELF"
    configuration = json.loads(content("firecracker.json"))
    assert configuration["boot-source"]["kernel_image_path"] == "vmlinux"
    assert [drive["path_on_host"] for drive in configuration["drives"]] == ["rootfs.ext4"]
    assert ("initrd" in files) == ("initrd_path" in configuration["boot-source"])
    assert json.loads(content("config.json"))["config"]["User"] == "33"


@pytest.mark.slow
def test_a_container_disk_is_an_image_with_a_disk_of_qemus(pushed, registry, store, generic_kernel, tmp_path):
    name, _, _ = pushed
    if not (store.kernels / generic_kernel.image.parent.name).exists():
        (store.kernels / generic_kernel.image.parent.name).symlink_to(generic_kernel.image.parent)
    target = f"{registry.host}/kiln/disk:1"
    digest = api.push_container_disk(target, name, store=store)
    manifest = json.loads(get(f"http://{registry.host}/v2/kiln/disk/manifests/{digest}"))
    (layer,) = manifest["layers"]
    packed = get(f"http://{registry.host}/v2/kiln/disk/blobs/{layer['digest']}")
    (tmp_path / "layer.tar").write_bytes(zlib.decompress(packed, wbits=31))
    with tarfile.open(tmp_path / "layer.tar") as archive:
        disk = archive.getmember("disk/disk.img")
        assert (disk.uid, disk.gid, disk.mode) == (107, 107, 0o440)
        file = archive.extractfile(disk)
        file.seek(512)
        assert file.read(8) == b"EFI PART"
