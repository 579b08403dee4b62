"""Every instruction and form of a Dockerfile, built, booted and looked at; beside it what Docker makes of it."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import firekiln as package
from dockerengine import needs_dockerd, running_engine
from machines import BUSYBOX, output

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES
from page import PAGE, render


def parametrised(cases):
    return [pytest.param(case, id=case.name, marks=[] if case.often else [pytest.mark.slow]) for case in cases]


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("RUN needs root")
    folder = tmp_path_factory.mktemp("context")
    shutil.copy(BUSYBOX, folder / "busybox")
    (folder / "data").mkdir()
    for name in ("a", "b.txt", "c.txt"):
        (folder / "data" / name).write_text(f"file {name}\n")
    (folder / "in").mkdir()
    (folder / "in/archive").write_text("in the archive\n")
    with tarfile.open(folder / "archive.tar", "w") as archive:
        archive.add(folder / "in", "in")
    return folder


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("case", parametrised(CASES))
def test_the_machine_does_what_the_instruction_says(case, store, context, boot, firekiln):
    built = package.build(context, dockerfile=(case.base + case.text).encode(), store=store)
    if case.status in (125, 126, 127):
        done = firekiln("run", "--rm", built.digest, *case.args)
        assert done.returncode == case.status, done.stderr
        return
    machine = boot(*case.args, image=built.digest)
    if case.health:
        wait_for(lambda: health(firekiln, machine.id) == case.health, 30)
    if case.stop or case.health:
        wait_for(lambda: "ready" in output(machine), 20)
        machine.stop(timeout=5)
    assert (machine.wait(), output(machine)) == (case.status, case.says), output(machine, "stderr")
    config = json.loads(firekiln("inspect", machine.id).stdout)[0]["Config"]
    assert {key: config.get(key) for key in case.config} == case.config


def health(firekiln, name):
    return json.loads(firekiln("inspect", name).stdout)[0]["State"].get("Health", {}).get("Status")


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    """docker's command line, on an engine of its own."""
    if not shutil.which("docker"):
        pytest.skip("needs Docker's client")
    with running_engine(tmp_path_factory.mktemp("docker") / "engine") as address:
        environment = {**os.environ, "DOCKER_HOST": address, "DOCKER_BUILDKIT": "1"}

        def command(*words, **options):
            return subprocess.run(
                ["docker", *words], capture_output=True, text=True, check=False, timeout=120, env=environment, **options
            )

        yield command


pytestmark_docker = [*needs_dockerd, pytest.mark.slow]


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=pytestmark_docker) for case in CASES if not case.unasked]
)
def test_docker_says_the_same(case, context, docker):
    built = docker("build", "-q", "--network", "host", "-f", "-", str(context), input=case.base + case.text)
    assert built.returncode == 0, built.stderr
    image = built.stdout.strip()
    made = docker("run", "-d", "--network", "none", image, *case.args)
    name = made.stdout.strip()
    try:
        if case.status in (125, 126, 127):
            assert made.returncode == case.status
            return
        assert made.returncode == 0, made.stderr
        if case.health:
            wait_for(
                lambda: docker("inspect", "-f", "{{.State.Health.Status}}", name).stdout.strip() == case.health, 30
            )
        if case.stop or case.health:
            wait_for(lambda: "ready" in docker("logs", name).stdout, 20)
            docker("stop", "-t", "5", name)
        status = int(docker("wait", name).stdout)
        assert (status, docker("logs", name).stdout) == (case.status, case.says)
        config = json.loads(docker("inspect", name).stdout)[0]["Config"]
        assert {key: config.get(key) for key in case.config} == case.config
    finally:
        docker("rm", "-f", "-v", name)


def test_every_instruction_of_the_reference_is_tried():
    known = "FROM RUN CMD LABEL MAINTAINER EXPOSE ENV ADD COPY ENTRYPOINT VOLUME USER WORKDIR ARG ONBUILD STOPSIGNAL"
    assert {*known.split(), "HEALTHCHECK", "SHELL"} <= {case.instruction for case in CASES}


@pytest.mark.skipif(not PAGE.parent.exists(), reason="the documentation is not here")
def test_the_page_is_made_of_the_cases():
    assert PAGE.read_text() == render(), "run tests/vm/conformance/page.py"
