"""What `run` is measured against: the same application as a service of systemd, in a Debian on an ext4 disk.

Same kernel, same QEMU, same machine; the kernel mounts the disk itself, so no initramfs costs time.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firekiln.machine.kernel import Kernel
from firekiln.machine.vmm.accel import choose_qemu
from firekiln.machine.vmm.hostfacts import HostFacts
from firekiln.machine.vmm.qemu import qemu_argv
from firekiln.machine.vmm.spec import GIB, BlockDevice, MachineSpec
from firekiln.store import Store

SIZE = 2 * GIB
ADDRESS = "ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off"
DOCKERFILE = """\
FROM {image}
USER root
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends systemd-sysv \\
 && rm -rf /var/lib/apt/lists/*
COPY <<EOF /etc/systemd/system/hello.service
[Service]
User=hello
WorkingDirectory=/srv/hello
Environment=APP_HOME=/srv/hello PAGE=/srv/hello/index.html
ExecStart=/usr/local/bin/hello-server 8080
[Install]
WantedBy=multi-user.target
EOF
RUN systemctl enable hello.service && systemctl mask systemd-networkd-wait-online.service
"""


def suits(kernel: Kernel) -> bool:
    """Whether the kernel mounts an ext4 disk by itself; Debian's has the drivers as modules."""
    return kernel.kind == "own"


def prepare(store: Store, image: str, folder: Path) -> Path:
    """A disk of that Debian, made of the image of the application."""
    context = folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE.format(image=image))
    tree = folder / "tree"
    argv = [sys.executable, "-m", "firekiln", "--root", str(store.root), "build", "-q", str(context)]
    subprocess.run([*argv, "-o", f"type=local,dest={tree}"], check=True, stdout=subprocess.DEVNULL)
    disk = folder / "disk"
    with disk.open("xb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, disk], check=True)
    shutil.rmtree(tree)
    return disk


@contextmanager
def booted(kernel: Kernel, disk: Path, port: int) -> Iterator[float]:
    """QEMU with a fresh copy of the disk, its application's port 8080 answering at `port` of this host; when it was
    started (CLOCK_MONOTONIC).
    """
    with tempfile.TemporaryDirectory(prefix="firekiln-boot-", dir=disk.parent) as name:
        copy = Path(name) / "disk"
        subprocess.run(["cp", "--reflink=auto", "--sparse=always", disk, copy], check=True)
        facts = HostFacts(Path(name) / "host.json")
        qemu = choose_qemu(kernel.image, kernel.digest, facts)
        root = BlockDevice(serial="root", path=copy, readonly=False)
        words = ("root=/dev/vda", "rw", "init=/sbin/init", ADDRESS)
        spec = MachineSpec(
            name="systemd",
            architecture="amd64",
            kernel=kernel.image,
            initramfs=Path("/none"),
            drives=(root,),
            command_line=words,
        )
        channel = os.open(os.devnull, os.O_RDWR)
        argv = qemu_argv(spec, accelerator=qemu.accelerator, tsc_khz=qemu.tsc_khz, channel_fd=channel)
        os.close(channel)
        for flag in ("-initrd", "-sandbox"):
            place = argv.index(flag)
            del argv[place : place + 2]
        without = argv.index("-chardev")
        del argv[without : without + 6]  # the agent's channel
        forward = f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:8080"
        argv += ["-netdev", forward, "-device", "virtio-net-device,netdev=net"]
        begin = time.monotonic()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            yield begin
        finally:
            process.kill()
            process.wait()
