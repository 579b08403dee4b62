"""What `firekiln doctor` finds, and says of it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from firecrackers import programs
from firekiln.api.host import Finding, HostReport, examine_host, find_firecracker, find_qemu
from firekiln.machine.vmm.boards import MICROVM, VIRT


def doctor(*args, root, **environment):
    argv = [sys.executable, "-m", "firekiln", "--root", str(root), "doctor", *args]
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment}
    )


def test_the_exit_status_says_whether_building_and_running_work_here(tmp_path):
    done = doctor("--format", "json", root=tmp_path / "none")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["build"] and report["run"] else 1)
    assert not done.stderr
    assert not (tmp_path / "none").exists(), "looking makes no store"
    found = {finding["name"]: finding for finding in report["findings"]}
    assert {"layers", "steps", "kvm", "qemu", "firecracker", "jailer", "kernel", "newuidmap", "cgroups", "tap"} <= set(
        found
    )
    assert (found["qemu"]["status"] == "ok") == (shutil.which("qemu-system-x86_64") is not None)
    for finding in found.values():
        assert finding["status"] in {"ok", "missing", "unusable"}
        assert finding["detail"]
        assert finding["use"]


def test_a_bare_host_is_told_what_is_missing_and_how_to_get_it(tmp_path):
    done = doctor(root=tmp_path, PATH="/nowhere")
    assert done.returncode == 1
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "run:   no" in lines
    for command in ("apt-get install qemu-system-x86", "apt-get install nftables", "apt-get install mmdebstrap"):
        assert command in lines
    assert "Traceback" not in done.stderr


def report(**changes):
    names = "layers steps qemu kvm kernel guest firecracker jailer".split()
    return HostReport(
        findings=tuple(
            Finding(name=name, status=changes.get(name, "ok"), detail="-", use="-", commands=("do this",))
            for name in names
        )
    )


@pytest.mark.parametrize(
    ("changes", "build", "run"),
    [
        ({}, True, True),
        ({"kvm": "missing", "firecracker": "missing"}, True, True),
        ({"qemu": "missing"}, True, True),
        ({"qemu": "missing", "kvm": "unusable"}, True, False),
        ({"qemu": "missing", "firecracker": "unusable"}, True, False),
        ({"kernel": "missing"}, True, False),
        ({"guest": "unusable"}, True, False),
        ({"steps": "unusable"}, False, True),
        ({"layers": "unusable"}, False, True),
        ({"jailer": "missing"}, True, True),
    ],
)
def test_what_can_be_done_follows_from_what_is_there(changes, build, run):
    made = report(**changes)
    assert (made.can_build, made.can_run) == (build, run)


@pytest.mark.parametrize(("does", "status"), [("", "ok"), ("odd", "unusable")])
def test_a_firecracker_with_known_holes_is_not_for_use(tmp_path, monkeypatch, does, status):
    for name, value in {**programs(tmp_path), "STANDIN_DOES": does}.items():
        monkeypatch.setenv(name, value)
    for program in ("firecracker", "jailer"):
        finding = find_firecracker(program)
        assert finding.status == status
        assert finding.detail == ("1.15.1" if status == "ok" else "1.14.3 has known holes")


def test_a_program_that_only_bears_a_vmms_name_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("qemu-system-x86_64", "firecracker"):
        (tmp_path / name).write_text("#!/bin/sh\necho nonsense version 1.2\n")
        (tmp_path / name).chmod(0o755)
    assert find_qemu(MICROVM).status == "unusable"
    assert find_qemu(replace(VIRT, program="absent")).status == "missing"
    assert find_firecracker("firecracker").status == "unusable"
    assert not examine_host(tmp_path / "store").can_run
