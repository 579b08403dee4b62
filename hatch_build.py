"""Hatchling's build hook: compiles the programs in C into the package and tags the wheel by platform.

They are the guest's PID 1 and the carrier of frames. The wheel holds no code that is loaded into Python, so any
interpreter will do (py3-none); the programs are static, so that manylinux's oldest tag is true of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GuestBuildHook(BuildHookInterface):  # type: ignore[type-arg] # hatchling's generic parameter is its own affair
    """Runs for wheels only, editable ones included; `FIREKILN_GUEST_ARCH` names another architecture (aarch64)."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        machine = os.environ.get("FIREKILN_GUEST_ARCH") or os.uname().machine
        for binary in (self._compile("guest", f"init-{machine}"), self._compile("carrier", f"carrier-{machine}")):
            if version != "editable":  # whatever else lies beside it belongs to other wheels
                build_data["force_include"][str(binary)] = f"firekiln/machine/guest-bin/{binary.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux2014_{machine}"

    def _compile(self, folder: str, name: str) -> Path:
        root = Path(self.root)
        out = root / "src" / "firekiln" / "machine" / "guest-bin"
        argv = ["make", "-s", "-C", str(root / folder)]
        argv += [f"OUT={out}", f"ARCH={name.rpartition('-')[2]}", f"PYTHON={sys.executable}"]
        try:
            subprocess.run(argv, check=True)
        except FileNotFoundError:
            raise SystemExit(
                f"firekiln: make is needed to compile the {folder}: apt-get install make musl-tools"
            ) from None
        except subprocess.CalledProcessError:
            raise SystemExit(
                f"firekiln: the {folder} could not be compiled (see above): "
                "apt-get install musl-tools; for another architecture guest/musl-for, or pip install ziglang"
            ) from None
        return out / name
