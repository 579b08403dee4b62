"""Images that are unusual as a whole, built and booted. What each instruction says is tried in `conformance`."""

import os
import shutil

import pytest

import firekiln as package
from firekiln.machine.options import RunOptions
from firekiln.machine.run import start
from machines import BUSYBOX, output

BASE = """\
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
FROM base
"""


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("RUN needs root")
    folder = tmp_path_factory.mktemp("context")
    shutil.copy(BUSYBOX, folder / "busybox")
    return folder


@pytest.fixture
def build(store, context):
    """Build a Dockerfile's text on the store; the image's digest."""
    return lambda text: package.build(context, dockerfile=text.encode(), store=store).digest


def test_a_single_static_binary_runs_without_proc_dev_and_passwd(build, boot):
    machine = boot(image=build('FROM scratch\nCOPY busybox /busybox\nENTRYPOINT ["/busybox", "ls", "/"]'))
    assert machine.wait() == 0, output(machine, "stderr")
    assert {"busybox", "dev", "proc", "sys"} <= set(output(machine).split())


def test_sixty_layers_boot_and_the_highest_wins(store, build, boot):
    steps = "\n".join(f"RUN echo {number} > /which; echo {number} > /f{number}" for number in range(60))
    digest = build(BASE + steps + "\nCMD cat /which; ls -d /f* | wc -l")
    assert len(store.images.get(digest).layers) >= 60
    machine = boot(image=digest)
    assert machine.wait() == 0, output(machine, "stderr")
    assert output(machine) == "59\n60\n"


def test_an_image_without_a_command_is_refused_before_anything_boots(store, build):
    digest = build("FROM scratch\nCOPY busybox /app")
    with pytest.raises(package.FirekilnError, match="no command specified"):
        start(store, RunOptions(image=digest))
