"""docs/how-to/from-docker.md: its commands are run, one after another, in a shell."""

import os
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from machines import BUSYBOX, argv

PAGE = Path(__file__).parents[2] / "docs/how-to/from-docker.md"
DOCKERFILE = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir /www && echo "a page" > /www/index.html && mkdir -p /etc && echo "root:x:0:0::/:/bin/sh" > /etc/passwd
EXPOSE 80
HEALTHCHECK CMD wget -q -O /dev/null http://127.0.0.1/
CMD ["httpd", "-f", "-v", "-h", "/www"]
"""


def steps(text):
    """Each command of the page, with the lines that it says it writes."""
    block = re.search(r"```console\n(.*?)```", text, re.DOTALL)[1]
    for part in block.removeprefix("$ ").split("\n$ "):
        command, _, written = part.strip("\n").partition("\n")
        yield command, written


@pytest.mark.timeout(1800)  # as long as what it does is done: a busy host takes its time
@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not here")
@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_commands_of_the_page_do_what_it_says(store, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("RUN needs root")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    shutil.copy(BUSYBOX, tmp_path / "busybox")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ours = f'firekiln() {{ {shlex.join(argv(store))} "$@"; }}\n'
    for command, written in steps(PAGE.read_text().replace("8080", port)):
        line = ["sh", "-c", ours + command]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, (command, done.stderr)
        if written:
            assert done.stdout == written + "\n", command
        if command.startswith("curl"):
            assert done.stdout == "a page\n"
    assert (tmp_path / "level.txt").read_text() == "info\n"
