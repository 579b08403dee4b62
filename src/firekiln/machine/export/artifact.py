"""What goes to a registry beside an image, for those who boot it without firekiln.

A *VM artifact* (image-spec v1.1, "Guidelines for Artifact Usage") refers to the image by its `subject`, and holds the
files of an export, each under its `org.opencontainers.image.title`, so that `oras pull` puts them into a folder where
`firecracker --config-file firecracker.json` boots them:

    rootfs.ext4  vmlinux  firecracker.json  cmdline  config.json  initrd (where the kernel needs one)

A *containerDisk* is KubeVirt's: an image with one layer, which holds a disk for any hypervisor as /disk/disk.img, owned
by qemu's user there, 107.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from firekiln.machine.kernel import Kernel
from firekiln.oci import digest as digests
from firekiln.oci.archive import TarLayer, make_layer
from firekiln.oci.config import History, Image
from firekiln.oci.manifest import EMPTY, MEDIA_TYPE_CONFIG, MEDIA_TYPE_EMPTY, Descriptor, Manifest
from firekiln.oci.platform import Platform
from firekiln.rootfs.compression import Compression
from firekiln.rootfs.tree import CHUNK, Directory, Extent, File, Meta, PathSource
from firekiln.values import dataclass

ARTIFACT_TYPE: Final = "application/vnd.firekiln.vm.v1"
_TITLE: Final = "org.opencontainers.image.title"
_MEDIA_TYPES: Final = {
    "rootfs.ext4": "application/vnd.firekiln.disk.v1.ext4",
    "vmlinux": "application/vnd.firekiln.kernel.v1",
    "initrd": "application/vnd.firekiln.initrd.v1",
    "firecracker.json": "application/vnd.firekiln.firecracker.v1+json",
    "config.json": MEDIA_TYPE_CONFIG,
    "cmdline": "text/plain",
}
_BESIDE: Final = {".config.json": "config.json", ".cmdline": "cmdline", ".initrd": "initrd"}
_QEMU: Final = 107


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A manifest, and its blobs by descriptor: bytes, or a file."""

    manifest: bytes
    blobs: Mapping[str, tuple[Descriptor, bytes | Path]]


def vm_artifact(image: Path, kernel: Kernel, subject: Descriptor) -> Artifact:
    """The artifact of a flat ext4 that was exported to `image`, what lies beside it, and the kernel that boots it."""
    files: dict[str, bytes | Path] = {"rootfs.ext4": image, "vmlinux": kernel.image}
    for suffix, title in _BESIDE.items():
        beside = image.with_name(image.name + suffix)
        if beside.exists():
            files[title] = beside
    configuration = json.loads(image.with_name(image.name + ".firecracker.json").read_bytes())
    files["firecracker.json"] = json.dumps(_relative(configuration), indent=2).encode() + b"\n"
    layers = {title: (_described(title, content), content) for title, content in sorted(files.items())}
    empty = Descriptor(media_type=MEDIA_TYPE_EMPTY, digest=digests.of(EMPTY), size=len(EMPTY))
    manifest = Manifest(
        config=empty,
        layers=tuple(descriptor for descriptor, _ in layers.values()),
        extra={"artifactType": ARTIFACT_TYPE, "subject": subject.to_json()},
    )
    blobs = {descriptor.digest: (descriptor, content) for descriptor, content in layers.values()}
    return Artifact(manifest=manifest.encode(), blobs={**blobs, empty.digest: (empty, EMPTY)})


def container_disk(disk: Path, platform: Platform, scratch: Path) -> Artifact:
    """The image around a disk. `scratch` is a new file that takes the layer. RootfsError, OSError."""
    layer = make_layer(_disk_tree(disk), scratch, Compression.GZIP)
    config = Image(
        platform=platform,
        diff_ids=(layer.diff_id,),
        history=(History(created_by="firekiln push --container-disk"),),
    ).encode()
    described = Descriptor(media_type=MEDIA_TYPE_CONFIG, digest=digests.of(config), size=len(config))
    manifest = Manifest(config=described, layers=(layer.descriptor,)).encode()
    return Artifact(manifest=manifest, blobs={described.digest: (described, config), **_blob(layer)})


def _blob(layer: TarLayer) -> dict[str, tuple[Descriptor, bytes | Path]]:
    return {layer.descriptor.digest: (layer.descriptor, layer.path)}


def _disk_tree(disk: Path) -> Directory:
    size = disk.stat().st_size
    file = File(
        meta=Meta(mode=0o440, uid=_QEMU, gid=_QEMU),
        size=size,
        extents=(Extent(0, size, PathSource(str(disk)), 0),),
    )
    folder = Directory(meta=Meta(mode=0o555, uid=_QEMU, gid=_QEMU), children={b"disk.img": file})
    return Directory(meta=Meta(mode=0o755), children={b"disk": folder})


def _described(title: str, content: bytes | Path) -> Descriptor:
    digest, size = (digests.of(content), len(content)) if isinstance(content, bytes) else _digest(content)
    return Descriptor(media_type=_MEDIA_TYPES[title], digest=digest, size=size, annotations={_TITLE: title})


def _digest(path: Path) -> tuple[str, int]:
    found, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            found.update(data)
            size += len(data)
    return f"sha256:{found.hexdigest()}", size


def _relative(configuration: dict[str, Any]) -> dict[str, Any]:
    """Firecracker's configuration for files that lie in its working directory under their titles."""
    boot = {**configuration["boot-source"], "kernel_image_path": "vmlinux"}
    if "initrd_path" in boot:
        boot["initrd_path"] = "initrd"
    drives = [{**drive, "path_on_host": "rootfs.ext4"} for drive in configuration["drives"]]
    return {**configuration, "boot-source": boot, "drives": drives}
