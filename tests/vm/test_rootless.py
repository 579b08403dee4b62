"""The whole way as an ordinary user: build with RUN, export, boot."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import isolation
from firekiln.machine.kernel import default_kernel
from isolation import BIN, USER, as_user
from machines import BUSYBOX

pytestmark = [
    isolation.needs_root,
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs busybox-static"),
    pytest.mark.skipif(not shutil.which("newuidmap"), reason="needs uidmap"),
]

DOCKERFILE = """
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY <<E /etc/passwd
root:x:0:0:root:/root:/bin/sh
bob:x:1000:1000:bob:/home/bob:/bin/sh
E
RUN mkdir -m 700 /home /home/bob && chmod 755 /home && echo mine >/home/bob/f && chown -R bob /home/bob
USER bob
CMD id -u; cat /home/bob/f
"""


def test_a_user_builds_exports_and_boots(kernel_folder):
    kernel = default_kernel(kernel_folder, "amd64")
    with isolation.home() as home:
        context, kernels = home / "context", home / "store/kernels"
        context.mkdir()
        shutil.copy(BUSYBOX, context / "busybox")
        (context / "Dockerfile").write_text(DOCKERFILE)
        kernels.mkdir(parents=True)
        shutil.copytree(kernel.image.parent, kernels / kernel.image.parent.name, symlinks=False)
        subprocess.run(["chown", "-R", f"{USER}:{USER}", home], check=True)
        command = f"{BIN}/firekiln --root {home}/store"
        lines = [
            f"{command} build -q -t web {context}",
            f"{command} export web -o type=local,dest={home}/out",
            f"{command} run --rm web",
            f"{command} ps -aq",
        ]
        done = as_user(home, "sh", "-ec", "\n".join(lines))
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-2:] == ["1000", "mine"]
        assert (home / "out/home/bob/f").read_text() == "mine\n"
        assert (home / "out/home/bob/f").stat().st_uid == USER


WARM = """
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
EXPOSE 80
CMD echo booted; mkdir /www; echo warm >/www/page; httpd -f -p 80 -h /www
"""
AWAIT = 'until [ "$({command} snapshot ls -q)" ]; do sleep 0.2; done'


@pytest.mark.slow
def test_a_users_machines_start_warm(kernel_folder):
    kernel = default_kernel(kernel_folder, "amd64")
    with isolation.home() as home:
        context, kernels = home / "context", home / "store/kernels"
        context.mkdir()
        shutil.copy(BUSYBOX, context / "busybox")
        (context / "Dockerfile").write_text(WARM)
        kernels.mkdir(parents=True)
        shutil.copytree(kernel.image.parent, kernels / kernel.image.parent.name, symlinks=False)
        subprocess.run(["chown", "-R", f"{USER}:{USER}", home], check=True)
        command = f"{BIN}/firekiln --root {home}/store"
        lines = [
            f"{command} build -q -t web {context}",
            f"{command} run -d --warm --name first web",
            AWAIT.format(command=command),
            f"{command} run -d --warm --name second web",
            f"{command} exec second cat /www/page",
            f"{command} logs second",
            f"{command} rm -f first second",
            f"{command} snapshot prune -f",
        ]
        done = as_user(home, "sh", "-ec", "\n".join(lines))
        assert done.returncode == 0, done.stderr
        words = done.stdout.splitlines()
        assert "warm" in words
        assert "booted" not in words
