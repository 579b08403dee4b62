"""The wheel, installed where there is no checkout: it builds an image and boots it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from firekiln.store import Store
from machines import BUSYBOX

CHECKOUT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a checkout is hidden by a mount, which needs root"),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """`firekiln` of a wheel that was just made, in a virtual environment of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, CHECKOUT], check=True)
    (wheel,) = folder.glob("firekiln-*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    subprocess.run([folder / "venv/bin/python", *pip[1:], "install", wheel], check=True)
    return folder / "venv/bin/firekiln"


def test_a_wheel_builds_and_boots_without_the_checkout(installed, kernel_folder, tmp_path):
    if CHECKOUT in (installed, *installed.parents):
        pytest.skip("the virtual environment lies in the checkout")
    with Store.open(tmp_path / "store") as store:
        shutil.copytree(kernel_folder / "kernels", store.kernels, dirs_exist_ok=True)
    (tmp_path / "context").mkdir()
    shutil.copy(BUSYBOX, tmp_path / "context/busybox")
    (tmp_path / "context/Dockerfile").write_text(
        "FROM scratch\n"
        "COPY busybox /bin/busybox\n"
        'RUN ["/bin/busybox", "ln", "-s", "busybox", "/bin/sh"]\n'
        "ENV WORD=kept\n"
        "CMD echo $WORD; exit 5\n"
    )
    # The checkout is hidden, in a mount namespace of the two commands' own.
    script = 'mount -t tmpfs none "$1" && "$2" --root "$3" build -q -t wheel . && exec "$2" --root "$3" run --rm wheel'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", CHECKOUT, installed, store.root],
        cwd=tmp_path / "context",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert done.stdout.splitlines()[1:] == ["kept"]
    assert done.stderr == ""
