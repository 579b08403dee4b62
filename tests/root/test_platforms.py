"""RUN for a foreign --platform: through an emulator that binfmt_misc knows, or a clear error."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from building import BUSYBOX, Builds
from firekiln.errors import BuildError
from firekiln.sandbox import binfmt
from trees import static_elf

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or BUSYBOX is None, reason="needs root and busybox-static"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the foreign programs are arm64's"),
]

EM_AARCH64 = 183
NAME = "firekiln-test"


def hello() -> bytes:
    """An arm64 program that writes a line."""
    text = b"hello of arm64\n"
    words = [
        0xD2800020,  # mov x0, 1
        0x100000E1,  # adr x1, text
        0xD2800002 | len(text) << 5,  # mov x2, length
        0xD2800808,  # mov x8, write
        0xD4000001,  # svc 0
        0xD2800000,  # mov x0, 0
        0xD2800BA8,  # mov x8, exit
        0xD4000001,  # svc 0
    ]
    return static_elf(struct.pack(f"<{len(words)}I", *words) + text, machine=EM_AARCH64)


@pytest.fixture
def register():
    """Registers an interpreter of arm64 programs for the test's time."""
    with contextlib.ExitStack() as held:
        control = binfmt.FOLDER / "register"
        if not control.exists():
            mounted = subprocess.run(
                ["mount", "-t", "binfmt_misc", "none", binfmt.FOLDER], capture_output=True, check=False
            )
            if mounted.returncode:
                pytest.skip("binfmt_misc cannot be mounted here")
            held.callback(subprocess.run, ["umount", binfmt.FOLDER], check=True)
        if binfmt.find("arm64"):
            pytest.skip("an interpreter of arm64 programs is registered already")

        def call(interpreter: Path, flags: str) -> None:
            escaped = "".join(f"\\x{byte:02x}" for byte in binfmt.elf_header("arm64"))
            mask = "".join(f"\\x{byte:02x}" for byte in b"\xff" * 7 + bytes(9) + b"\xfe\xff\xff\xff")
            rule = f":{NAME}:M:0:{escaped[: 20 * 4]}:{mask}:{interpreter}:{flags}"
            control.write_text(rule)
            held.callback((binfmt.FOLDER / NAME).write_text, "-1")

        yield call


@pytest.fixture
def builds(tmp_path) -> Builds:
    made = Builds(tmp_path)
    (made.context / "hello").write_bytes(hello())
    (made.context / "hello").chmod(0o755)
    return made


TEXT = 'FROM scratch\nCOPY hello /hello\nRUN ["/hello", "there"]\n'


def test_a_step_for_another_platform_goes_through_what_is_registered(builds, register, tmp_path):
    (tmp_path / "echo").write_bytes(Path(BUSYBOX).read_bytes())
    (tmp_path / "echo").chmod(0o755)
    register(tmp_path / "echo", "F")
    builds.build(TEXT, platform="linux/arm64")
    assert "".join(builds.outputs().values()) == "/hello there\n"


def test_a_step_for_another_platform_runs_under_qemu(builds, register):
    emulator = shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("needs qemu-user-static")
    register(Path(emulator), "F")
    image = builds.build(TEXT, platform="linux/arm64").image
    assert "".join(builds.outputs().values()) == "hello of arm64\n"
    assert str(image.image.platform) == "linux/arm64"


def test_an_emulator_out_of_a_step_s_reach_is_told_apart(builds, register, tmp_path):
    (tmp_path / "echo").write_bytes(Path(BUSYBOX).read_bytes())
    (tmp_path / "echo").chmod(0o755)
    register(tmp_path / "echo", "")
    with pytest.raises(BuildError, match=r"^Dockerfile:3: RUN can't execute .* linux/arm64 .*without the flag F"):
        builds.build(TEXT, platform="linux/arm64")


def test_without_an_emulator_it_is_said_how_to_get_one(builds):
    with pytest.raises(BuildError, match=r"^Dockerfile:3: RUN can't execute programs for linux/s390x") as caught:
        builds.build(TEXT, platform="linux/s390x")
    assert "apt install qemu-user-static binfmt-support" in caught.value.hint
    with pytest.raises(BuildError, match=r"^Dockerfile:3: RUN can't execute programs for windows/amd64"):
        builds.build(TEXT, platform="windows/amd64")


def test_what_runs_nothing_is_built_for_any_platform(builds):
    image = builds.build("FROM scratch\nCOPY hello /hello\nCMD /hello\n", platform="linux/s390x").image
    assert str(image.image.platform) == "linux/s390x"
