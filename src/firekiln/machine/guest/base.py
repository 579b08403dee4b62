"""The part of the initramfs that is the same for every machine of a kernel, made once and kept in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from firekiln.machine.guest.binary import pid1_path
from firekiln.machine.guest.initramfs import KernelModule, base_initramfs
from firekiln.machine.kernel import Kernel
from firekiln.store import Store
from firekiln.store.durable import replace_file, store_errors


def kept_initramfs(store: Store, kernel: Kernel, wanted: Sequence[str]) -> Path:
    """PID 1 and the kernel's modules for `wanted`. StoreError; MachineError where there is no PID 1."""
    pid1 = pid1_path(kernel.architecture).read_bytes()
    modules = kernel.modules_for(wanted)
    key = json.dumps([hashlib.sha256(pid1).hexdigest(), kernel.digest, [module.name for module in modules]])
    path = store.machines / "cache" / f"initramfs-{hashlib.sha256(key.encode()).hexdigest()}"
    if not store.integrity.is_known(path):
        data = base_initramfs(
            pid1, [KernelModule(name=module.path.name, data=module.path.read_bytes()) for module in modules]
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with store_errors(path, "cannot write"):
            replace_file(path, data, temporary=store.temporary.folder)
        store.integrity.trust([path])
    return path
