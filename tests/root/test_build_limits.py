"""`firekiln build`'s limits of RUN steps: --memory, --cpus, --pids-limit, --ulimit, --shm-size."""

from __future__ import annotations

import subprocess
import sys

import pytest

from building import BUSYBOX, Builds, write_base
from firekiln.errors import StepFailedError, UsageError
from firekiln.sandbox import cgroup
from systems import may_isolate

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not may_isolate(), reason="needs root or subordinate ids"),
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static"),
]

BASE = "FROM scratch AS base\nCOPY base /\n"


@pytest.fixture
def builds(tmp_path) -> Builds:
    made = Builds(tmp_path)
    write_base(made.context / "base")
    for program in ("df", "tail"):
        (made.context / "base/bin" / program).symlink_to("busybox")
    return made


def test_limits_reach_the_steps_and_are_in_no_key(builds):
    (builds.context / "Dockerfile").write_text(f"{BASE}RUN ulimit -n; df -k /dev/shm\n")
    argv = [sys.executable, "-m", "firekiln", "--root", builds.root, "build", "--progress=plain", builds.context]
    first = subprocess.run([*argv, "--ulimit", "nofile=77:88", "--shm-size=3m"], capture_output=True, check=True)
    assert b" 77\n" in first.stderr
    assert b" 3072 " in first.stderr
    second = subprocess.run([*argv, "--ulimit=nofile=78"], capture_output=True, check=True)
    assert b"CACHED" in second.stderr
    assert b" 77\n" not in second.stderr


def test_a_step_without_enough_memory_is_told_apart(builds):
    if cgroup.find("memory") is None:
        pytest.skip("no memory cgroup here")
    with pytest.raises(StepFailedError, match=r"exit code: 137: cannot allocate memory: .* --memory allows, 24 MiB"):
        builds.build(f"{BASE}RUN tail -c 60m /dev/zero\n", memory=24 << 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 1 << 20}, "minimum memory limit allowed is 6MB"),
        ({"cpus": 0}, "--cpus 0: give a number of processors above 0"),
        ({"ulimits": ["nofile=2:1"]}, "--ulimit: ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
    ],
)
def test_what_is_no_limit_is_refused_before_anything_is_built(builds, options, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        builds.build(BASE, **options)
    assert builds.events == []


def test_a_size_that_is_none_is_refused(builds):
    argv = [sys.executable, "-m", "firekiln", "--root", builds.root, "build", "--memory=lots", builds.context]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.returncode == 125
    assert b"--memory lots: not a size" in done.stderr
