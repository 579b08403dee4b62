"""The guest's C sources on the host: their own unit tests, and what the compiled PID 1 is."""

import os
import secrets
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from firekiln.errors import MachineError
from firekiln.machine.guest.binary import pid1_path
from firekiln.oci.platform import Platform

GUEST = Path(__file__).parents[3] / "guest"
NAMES = sorted(path.stem.removeprefix("test_") for path in (GUEST / "tests").glob("test_*.c"))
PT_INTERP = 3

needs_gcc = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("make")), reason="gcc and make compile the tests"
)


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guest")
    targets = [str(folder / name) for name in [*(f"test_{name}" for name in NAMES), "fuzz"]]
    done = subprocess.run(
        ["make", "-s", "-C", str(GUEST), f"TEST_OUT={folder}", *targets], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@needs_gcc
@pytest.mark.parametrize("name", NAMES)
def test_the_guests_own_unit_tests_pass_under_the_sanitizers(name, programs, tmp_path):
    done = subprocess.run(
        [programs / f"test_{name}", tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


TARGETS = ["json", "users", "frames", "orders", "cmdline", "tar"]


def fuzz(programs, target, seconds, folder):
    """One round of the fuzzer; the seed is in the message of a failure, the input in the folder."""
    if target == "tar" and os.geteuid() != 0:
        pytest.skip("unpacks as root, in a chroot of its own")
    seed = secrets.randbits(32)
    argv = [programs / "fuzz", target, str(seconds), str(seed), folder]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    assert done.returncode == 0, f"fuzz {target} {seconds} {seed}: {done.stderr}"


@needs_gcc
@pytest.mark.parametrize("target", TARGETS)
def test_what_others_wrote_does_pid_1_no_harm(target, programs, tmp_path):
    fuzz(programs, target, 5, tmp_path)


@needs_gcc
@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("target", TARGETS)
def test_what_others_wrote_does_pid_1_no_harm_in_ten_minutes(target, programs, tmp_path):
    fuzz(programs, target, 600, tmp_path)


ARM64 = "aarch64-linux-gnu-gcc"

needs_arm64 = pytest.mark.skipif(
    not (shutil.which(ARM64) and shutil.which("qemu-aarch64-static")),
    reason="needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user-static",
)


@needs_arm64
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_arm64_the_unit_tests_pass_as_well(tmp_path):
    make = ["make", "-s", "-C", GUEST, f"TEST_OUT={tmp_path}", f"TEST_CC={ARM64} -static", "SANITIZE=-g -O1"]
    done = subprocess.run(
        [*make, *(f"{tmp_path}/test_{name}" for name in NAMES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        (tmp_path / name).mkdir()
        argv = ["qemu-aarch64-static", tmp_path / f"test_{name}", tmp_path / name]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert (name, done.returncode, done.stderr) == (name, 0, "")


@needs_arm64
@pytest.mark.slow
@pytest.mark.network
def test_pid_1_for_arm64_is_as_small(tmp_path):
    fetched = subprocess.run([GUEST / "musl-for", "aarch64", tmp_path / "musl"], check=False)
    if fetched.returncode != 0:
        pytest.skip("Debian's musl for arm64 cannot be fetched")
    make = ["make", "-s", "-C", GUEST, "ARCH=aarch64", f"OUT={tmp_path}", f"MUSL={tmp_path}/musl"]
    subprocess.run(make, check=True)
    assert (tmp_path / "init-aarch64").stat().st_size < 100_000
    done = subprocess.run(["qemu-aarch64-static", tmp_path / "init-aarch64"], capture_output=True, check=False)
    assert done.stderr == b"firekiln: the first process of a machine, nothing for people to start\n"


def test_pid_1_is_a_small_static_program_for_this_host():
    data = pid1_path(Platform.host().architecture).read_bytes()
    assert data.startswith(b"\x7fELF")
    assert len(data) < 100_000 or b"GNU C Library" in data  # with musl: the size that is promised
    offset, size, count = (
        struct.unpack_from("<Q", data, 0x20)[0],
        *struct.unpack_from("<HH", data, 0x36),
    )
    segments = [struct.unpack_from("<I", data, offset + i * size)[0] for i in range(count)]
    assert PT_INTERP not in segments


def test_an_architecture_without_guest_is_a_clear_error():
    with pytest.raises(MachineError, match="no guest for riscv64"):
        pid1_path("riscv64")
