"""Builds killed at any moment: the next one makes the right image, and nothing of the killed one stays."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

import faults
from firekiln.store.failpoint import POINTS, VARIABLE

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts and namespaces need root"),
    pytest.mark.skipif(faults.BUSYBOX is None, reason="needs busybox-static"),
]


class Reference:
    """A build that nobody disturbed: its image, the files that it left, and how long it took."""

    def __init__(self, folder):
        self.context = faults.write_context(folder / "context")
        began = time.monotonic()
        self.digest = faults.build(folder / "store", self.context)
        self.seconds = time.monotonic() - began
        self.files = faults.files_of(folder / "store")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    faults.adopt_orphans()
    with faults.memory_folder(tmp_path_factory.mktemp("reference")) as folder:
        yield Reference(folder)


@pytest.fixture
def folder(tmp_path):
    with faults.memory_folder(tmp_path) as made:
        yield made


@pytest.fixture
def built_again(reference, folder):
    """Check a store in which a build was killed: a function of the children that this process had before."""
    root = folder / "store"

    def check(before):
        assert faults.descendants_end(before) == []
        assert faults.mounts_and_loops(folder) == []
        assert faults.build(root, reference.context) == reference.digest
        faults.assert_sound(root, reference.digest)
        assert faults.files_of(root) == reference.files
        assert list((root / "tmp").iterdir()) == []
        assert faults.descendants_end(before) == []
        assert faults.mounts_and_loops(folder) == []

    return check


@pytest.mark.parametrize("point", POINTS)
def test_a_build_killed_at_a_named_point_is_made_good_by_the_next(reference, built_again, folder, point):
    before = set(faults.children_of(os.getpid()))
    with faults.start_build(folder / "store", reference.context, **{VARIABLE: point}) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL, "the build never came to this point"
    built_again(before)


def kill_once(seed, reference, built_again, folder):
    """Kill the build, or the process that forks its steps, at a moment that `seed` chooses."""
    chance = random.Random(seed)
    before = set(faults.children_of(os.getpid()))
    with faults.start_build(folder / "store", reference.context) as process:
        time.sleep(chance.uniform(0.0, 1.1) * reference.seconds)
        victims = [process.pid, *faults.children_of(process.pid)]
        victim = chance.choice(victims)
        if victim == process.pid or victim in faults.children_of(process.pid):
            os.kill(victim, signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode in (0, 1, -signal.SIGKILL), said
    assert "Traceback" not in said
    built_again(before)


@pytest.mark.parametrize("seed", range(20))
def test_a_build_killed_at_a_random_moment_is_made_good_by_the_next(seed, reference, built_again, folder):
    kill_once(seed, reference, built_again, folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 200))
def test_a_build_killed_at_any_of_many_moments_is_made_good_by_the_next(seed, reference, built_again, folder):
    kill_once(seed, reference, built_again, folder)
