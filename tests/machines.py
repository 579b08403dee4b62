"""Images for tests that boot them, and the command line that does."""

import subprocess
import sys
from pathlib import Path

from firekiln.machine.machine import Machine
from firekiln.oci.config import Image, ImageConfig
from firekiln.oci.platform import Platform
from firekiln.rootfs.tree import Directory
from firekiln.store import Store, StoredImage
from trees import file, folder, link

BUSYBOX = Path("/bin/busybox")


def output(machine: Machine, stream: str = "stdout") -> str:
    """What its log holds of one stream."""
    return "".join(line.text for line in machine.logs() if line.stream == stream)


def argv(store: Store, *args: str) -> list[str]:
    return [sys.executable, "-m", "firekiln", "--root", str(store.root), *args]


def busybox() -> Directory:
    """A root file system of busybox, with a user `web` (33)."""
    names = subprocess.run([BUSYBOX, "--list"], capture_output=True, check=True).stdout.split()
    programs = {name: link(b"busybox") for name in names}
    return folder(
        {
            b"bin": folder({**programs, b"busybox": file(BUSYBOX.read_bytes(), mode=0o755)}),
            b"etc": folder(
                {
                    b"passwd": file(b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/www:/bin/sh\n"),
                    b"group": file(b"root:x:0:\nweb:x:33:\n"),
                }
            ),
            b"tmp": folder(mode=0o1777),
            b"www": folder({b"index.html": file(b"hello from the machine\n")}),
        }
    )


def put_image(store: Store, name: str, *trees: Directory, platform: str = "linux/amd64", **config) -> StoredImage:
    """An image of one layer for each Tree."""
    layers = [store.layers.commit(tree) for tree in trees]
    image = Image(
        platform=Platform.parse(platform),
        config=ImageConfig(**config),
        diff_ids=tuple(layer.digest for layer in layers),
    )
    return store.images.put(image, layers, references=[name])
