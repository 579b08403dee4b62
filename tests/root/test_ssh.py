"""RUN --mount=type=ssh with OpenSSH's own agent and clients: a step signs with a key that it never sees."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

import isolation
from building import BUSYBOX, Builds, write_base

pytestmark = [
    pytest.mark.root,
    pytest.mark.rootless,
    isolation.needed,
    pytest.mark.skipif(BUSYBOX is None, reason="needs busybox-static"),
    pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="needs openssh-client"),
]

SECONDS = 10


@pytest.fixture
def agent(tmp_path):
    """The socket of an agent that holds one key, whose public half is `key.pub` beside it."""
    path = tmp_path / "agent"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ours", "-f", tmp_path / "key"], check=True)
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SECONDS
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        environment = {"SSH_AUTH_SOCK": str(path), "PATH": "/usr/bin:/bin"}
        subprocess.run(["ssh-add", "-q", tmp_path / "key"], env=environment, check=True)
        (tmp_path / "key").unlink()
        yield path
    finally:
        process.terminate()
        process.wait()


def copy_program(name: str, root: Path) -> None:
    """The host's program with the libraries that it loads, at the same places below `root`."""
    program = shutil.which(name)
    lines = subprocess.run(["ldd", program], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    libraries = [word for line in lines for word in line.split() if word.startswith("/")]
    for path in (program, *libraries):
        copy = root / path.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def test_a_step_signs_with_the_agents_key_and_the_next_one_cannot(tmp_path, agent):
    (tmp_path / "builds").mkdir()
    builds = Builds(tmp_path / "builds")
    write_base(builds.context / "base")
    for name in ("ssh-add", "ssh-keygen"):
        copy_program(name, builds.context / "base")
    shutil.copy(agent.with_name("key.pub"), builds.context / "base/key.pub")
    (builds.context / "base/message").write_text("hello\n")
    builds.build(
        "FROM scratch\nCOPY base /\n"
        "RUN --mount=type=ssh,required ssh-add -L && ssh-keygen -q -Y sign -n test -f /key.pub < /message\n"
        "RUN ssh-add -L 2>&1 || echo no agent\n",
        ssh={"default": agent},
    )
    (said,) = (text.splitlines() for text in builds.outputs().values())
    key = agent.with_name("key.pub").read_text().strip()
    end = said.index("-----END SSH SIGNATURE-----")
    assert said[0] == key
    assert said[-1] == "no agent"
    signature = tmp_path / "signature"
    signature.write_text("\n".join(said[1 : end + 1]) + "\n")
    verify = ["ssh-keygen", "-q", "-Y", "check-novalidate", "-n", "test", "-s", signature]
    subprocess.run(verify, input=b"hello\n", check=True)
    assert subprocess.run(verify, input=b"other\n", check=False, capture_output=True).returncode != 0
