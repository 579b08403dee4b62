"""Small systems to run steps on, and what steps must not leave on the host."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from firekiln.errors import FirekilnError
from firekiln.rootfs.tree import Directory, Node
from firekiln.sandbox.subids import is_host_root, own_map
from trees import file, folder, link

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nbob:x:7:8:Bob:/home/bob:/bin/sh\n"
GROUP = b"root:x:0:\nbob:x:8:\ngrp:x:9:bob,other\nsup:x:10:bob\n"


def system(busybox: bytes, *, etc: dict[bytes, Node] | None = None, root: dict[bytes, Node] | None = None) -> Directory:
    """A root with sh, ls and the like, passwd and group; `root` adds to it or replaces."""
    program = file(busybox, mode=0o755)
    names = subprocess.run(["busybox", "--list"], capture_output=True, check=True).stdout.split()
    bin_folder = folder({b"busybox": program, **{name: link(b"busybox") for name in names if name != b"busybox"}})
    settings = folder({b"passwd": file(PASSWD), b"group": file(GROUP), **(etc or {})})
    tmp = folder(mode=0o1777)
    return folder({b"bin": bin_folder, b"etc": settings, b"tmp": tmp, **(root or {})})


def may_isolate() -> bool:
    """Whether steps can run here: by root's rights, or by subordinate ids."""
    try:
        return is_host_root() or bool(own_map())
    except FirekilnError:
        return False


def spawners_of(parent: int) -> list[int]:
    """The spawner processes that process `parent` started. Others may run on this host."""
    found = []
    for folder_of_one in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder_of_one / "cmdline").read_bytes()
            if b"sandbox.spawner" in command and f"PPid:\t{parent}\n" in (folder_of_one / "status").read_text():
                found.append(int(folder_of_one.name))
        except OSError:
            continue
    return found


def left_behind(folder_of_layers: Path) -> tuple[list[str], list[str], list[int]]:
    """Our mounts in the host's namespace, loop devices over files below a folder, and our spawners."""
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if "firekiln" in line]
    listed = subprocess.run(["losetup", "-n", "-O", "BACK-FILE"], capture_output=True, text=True, check=True).stdout
    loops = [line for line in listed.splitlines() if line.startswith(str(folder_of_layers))]
    return mounts, loops, spawners_of(os.getpid())
