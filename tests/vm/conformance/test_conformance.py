"""Every instruction and form of a Dockerfile, built, booted and looked at; beside it what Docker makes of it."""

import contextlib
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from dockerengine import docker_client, needs_dockerd, running_engine
from firekiln.dockerfile.convert import RULES
from firekiln.dockerfile.flags import KNOWN
from firekiln.dockerfile.mounts import MountType
from firekiln.dockerfile.parser import parse_syntax
from firekiln.errors import DockerfileError
from gitserver import DAEMON, git, served
from httpserver import serve_folder
from machines import BUSYBOX, argv

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES
from page import PAGE, render
from trial import Engine, Trial, own_context

pytestmark = pytest.mark.timeout(1800)  # a busy host without KVM takes its time

FRONTENDS = {20: 2, 23: 4, 24: 5, 25: 6, 27: 8, 28: 14, 29: 19}
"""Of Docker Engines by major version: the minor version of the `docker/dockerfile` 1 that they have built in."""


def parametrised(marks):
    """All cases, each with the marks that `marks` gives it."""
    return [pytest.param(case, id=f"{name} {case.form}", marks=marks(case)) for name, case in CASES.items()]


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("RUN needs root")
    folder = tmp_path_factory.mktemp("context")
    shutil.copy(BUSYBOX, folder / "busybox")
    names = ("data/a", "data/b.txt", "data/c.txt", "odd/two words", "odd/[x].txt", "nested/deep/f")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"file {Path(name).name}\n")
    made = folder.parent / "in the archive"
    made.write_text("in the archive\n")
    for name, mode in (("archive.tar", "w"), ("zipped", "w:gz")):
        with tarfile.open(folder / name, mode) as archive:
            archive.add(made, "in/archive")
    with gzip.open(folder / "plain.gz", "w") as file:
        file.write(b"plain\n")
    return folder


@pytest.fixture(scope="module")
def web(context):
    with serve_folder(context) as url:
        yield url


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    if not DAEMON.exists():
        pytest.skip("needs git")
    folder = tmp_path_factory.mktemp("repositories")
    (folder / "repo/sub").mkdir(parents=True)
    (folder / "repo/sub/f").write_text("main\n")
    git(folder / "repo", "init", "-q")
    git(folder / "repo", "add", ".")
    git(folder / "repo", "commit", "-q", "-m", "one")
    git(folder / "repo", "checkout", "-q", "-b", "side")
    (folder / "repo/sub/f").write_text("side\n")
    git(folder / "repo", "commit", "-q", "-a", "-m", "two")
    git(folder / "repo", "checkout", "-q", "main")
    git(folder, "clone", "-q", "--bare", "repo", "repo.git")
    with served(folder) as url:
        yield url


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """The socket of an ssh agent, which holds no key."""
    if not shutil.which("ssh-agent"):
        pytest.skip("needs openssh-client")
    path = tmp_path_factory.mktemp("agent") / "socket"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline, "ssh-agent does not start"
            time.sleep(0.01)
        yield str(path)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def places(request, context):
    """What stands for the words between @; what a case doesn't ask for is not started."""
    case = request.node.callspec.params["case"]
    text = case.text + " ".join(case.build)
    wanted = {"HTTP": "web", "GIT": "repository", "AGENT": "agent"}
    found = {word: request.getfixturevalue(name) for word, name in wanted.items() if f"@{word}@" in text}
    return {**found, "DIGEST": hashlib.sha256((context / "data/a").read_bytes()).hexdigest()}


@pytest.mark.parametrize("case", parametrised(lambda case: [] if case.in_every_run else [pytest.mark.slow]))
def test_the_machine_does_what_the_instruction_says(case, store, context, places, tmp_path):
    engine = Engine(argv=tuple(argv(store)), ours=True)
    trial = Trial(engine=engine, case=case, context=own_context(case, context, tmp_path), places=places)
    assert trial.run() == case.told


@dataclass(frozen=True)
class Docker:
    """docker's command line, on an engine of its own; the minor version of its `docker/dockerfile` 1."""

    engine: Engine
    version: str
    frontend: int


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    with running_engine(tmp_path_factory.mktemp("docker")) as address:
        engine = Engine(
            argv=(str(docker_client()),),
            environment={"DOCKER_HOST": address, "DOCKER_BUILDKIT": "1"},
            for_build=("--network", "host"),
            for_run=("--network", "none"),
        )
        version = engine.read("version", "-f", "{{.Server.Version}}").strip()
        major = int(version.partition(".")[0])
        frontend = max(minor for least, minor in FRONTENDS.items() if least <= major)
        yield Docker(engine, version, frontend)


@pytest.mark.parametrize("case", parametrised(lambda _: [*needs_dockerd, pytest.mark.slow]))
def test_docker_does_what_the_table_says(case, context, places, tmp_path, docker):
    if case.unasked:
        pytest.skip(case.unasked)
    told = case.told
    if docker.frontend < case.since or not case.since:
        if case.since and case.docker is None:
            pytest.skip(f"needs docker/dockerfile 1.{case.since}")
        told = case.docker or told
    trial = Trial(engine=docker.engine, case=case, context=own_context(case, context, tmp_path), places=places)
    assert trial.run() == told


def nodes_of(case):
    """What a case says, as the parser reads it, triggers too; nothing of what the parser itself has to refuse."""
    for text in (case.parent, case.base + case.text):
        with contextlib.suppress(*[DockerfileError] if case.refused else []):
            nodes = parse_syntax(text).nodes if text else ()
            yield from nodes
            yield from (node.sub for node in nodes if node.sub)


@pytest.fixture(scope="module")
def said():
    return [node for case in CASES.values() for node in nodes_of(case)]


def test_every_instruction_that_the_parser_knows_is_tried():
    assert set(RULES) == {case.instruction.lower() for case in CASES.values() if case.instruction.isupper()}


def test_every_flag_that_the_parser_knows_is_tried(said):
    tried = {
        (node.keyword.lower(), flag.removeprefix("--").partition("=")[0]) for node in said for flag in node.flags or ()
    }
    assert tried == {(keyword, flag) for keyword, flags in KNOWN.items() for flag in flags}


def test_every_type_of_mount_is_tried(said):
    flags = [flag for node in said for flag in node.flags or () if flag.startswith("--mount=")]
    assert {kind for kind in MountType if any(f"type={kind}" in flag for flag in flags)} == set(MountType)


@pytest.mark.parametrize("keyword", ["run", "cmd", "entrypoint", "copy", "volume", "healthcheck"])
def test_what_has_an_exec_form_is_tried_in_both(keyword, said):
    assert {bool(node.json) for node in said if node.keyword.lower() == keyword} == {True, False}


def test_no_row_is_there_twice():
    rows = [(case.instruction, case.form) for case in CASES.values()]
    assert len(rows) == len(set(rows))


@pytest.mark.skipif(not PAGE.parent.exists(), reason="the documentation is not here")
def test_the_page_is_made_of_the_cases():
    assert PAGE.read_text() == render(), "run tests/vm/conformance/page.py"
