"""Control groups of version 2, with whatever controller this host has there."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from firekiln.sandbox import cgroup

pytestmark = pytest.mark.root


@pytest.fixture
def controller():
    """One of version 2's that the place where we are can hand on; it is handed on no longer afterwards."""
    for mount, _, kind, _ in cgroup._mounts():
        if kind == "cgroup2":
            handed_on = mount / "cgroup.subtree_control"
            before = handed_on.read_text().split()
            for name in (mount / "cgroup.controllers").read_text().split():
                if (place := cgroup.find(name)) and place.unified:
                    yield name
                    if place.folder == mount and name not in before:
                        handed_on.write_text(f"-{name}")
                    return
    pytest.skip("no controller of version 2 here")


def test_a_group_of_version_2_gets_the_controller_and_goes_with_all_that_is_in_it(controller):
    groups = cgroup.Groups()
    with ExitStack() as held:
        group, place = groups._step(controller, "--option", 1, held)
        assert place.unified
        assert controller in (group / "cgroup.controllers").read_text().split()
        assert group.parent.parent == place.folder
        with subprocess.Popen(["sleep", "98"]) as process:
            (group / "cgroup.procs").write_text(str(process.pid))
            assert f"/{group.name}\n" in Path(f"/proc/{process.pid}/cgroup").read_text()
            held.close()
            assert process.wait(3) == -9
        assert not group.exists()
        assert group.parent.is_dir()
    groups.close()
    assert not group.parent.exists()


def test_a_group_that_nobody_locked_is_swept_and_one_in_use_is_not(controller):
    place = cgroup.find(controller).folder
    forsaken = place / "firekiln-steps-0123456789ab"
    (forsaken / "step-1").mkdir(parents=True)
    foreign = place / "firekiln-steps-of-another"
    foreign.mkdir()
    with subprocess.Popen(["sleep", "97"]) as process:
        (forsaken / "step-1/cgroup.procs").write_text(str(process.pid))
        with cgroup._made(place) as kept:
            cgroup._sweep(place)
            assert kept.is_dir()
            assert not forsaken.exists()
            assert foreign.is_dir()
        assert process.wait(3) == -9
    foreign.rmdir()
    assert not kept.exists()
