"""The guest's C sources on the host: their own unit tests, and what the compiled PID 1 is."""

import os
import secrets
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from firekiln.errors import MachineError
from firekiln.machine.guestbin import pid1_path
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


TARGETS = ["json", "users", "frames", "tar"]


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
    fuzz(programs, target, 7, tmp_path)


@needs_gcc
@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("target", TARGETS)
def test_what_others_wrote_does_pid_1_no_harm_in_ten_minutes(target, programs, tmp_path):
    fuzz(programs, target, 600, tmp_path)


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
